//! The table of invariant I7: which message may answer which.

use super::Expect;

/// What a message does to the entry whose answer is due.
pub(super) enum Fit {
    Stays,
    Ends,
    Error,
    CopyIn,
    CopyOut,
    CopyData,
    Parameters,
    Not,
}

/// What a message of this tag is to what is due.
#[inline]
pub(super) fn fits(tag: u8, due: Expect) -> Fit {
    match (tag, due) {
        (b'D' | b'T' | b'C' | b'I', Expect::Query)
        | (b'D', Expect::Execute)
        | (b'V', Expect::Call) => Fit::Stays,
        (b'Z', Expect::Query | Expect::Sync | Expect::Call)
        | (b'C' | b'I' | b's', Expect::Execute)
        | (b'1', Expect::Parse)
        | (b'2', Expect::Bind)
        | (b'3', Expect::Close)
        | (b'T' | b'n', Expect::DescribePortal) => Fit::Ends,
        (b't', Expect::DescribeStatement) => Fit::Parameters,
        (b'E', _) => Fit::Error,
        (b'G', Expect::Query | Expect::Execute) => Fit::CopyIn,
        (b'H', Expect::Query | Expect::Execute) => Fit::CopyOut,
        (b'd' | b'c', Expect::Query | Expect::Execute) => Fit::CopyData,
        _ => Fit::Not,
    }
}
