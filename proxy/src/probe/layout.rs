//! Where fields of the kernel's structs are, by the kernel's own description of its types (BTF).
//!
//! The format: a header, then types one after the other, each of twelve bytes and what its kind
//! adds, then names (`Documentation/bpf/btf.rst`). Only structs, unions and what leads to them are
//! looked into. Nothing here trusts a number of the file to be within it.

use std::collections::BTreeMap;

/// The kernel's description of itself.
pub(super) const VMLINUX: &str = "/sys/kernel/btf/vmlinux";

const MAGIC: u16 = 0xeb9f;
const TYPE_BYTES: usize = 12;
const MEMBER_BYTES: usize = 12;
/// Structs in structs in structs.
const DEPTH_MAX: u32 = 8;

const STRUCT: u32 = 4;
const UNION: u32 = 5;
const TYPEDEF: u32 = 8;
const VOLATILE: u32 = 9;
const CONST: u32 = 10;
const RESTRICT: u32 = 11;
const TYPE_TAG: u32 = 18;

/// A description that was read.
pub(super) struct Layout {
    bytes: Vec<u8>,
    /// Where each type begins; the first is void, which has no place.
    types: Vec<usize>,
    names: usize,
    structs: BTreeMap<String, u32>,
}

impl Layout {
    /// Reads a description; none if it is none, or of another byte order.
    pub(super) fn parse(bytes: Vec<u8>) -> Option<Self> {
        let half = |at: usize| Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?));
        if half(0)? != MAGIC {
            return None;
        }
        let header = to_usize(word(&bytes, 4)?);
        let begin = header.checked_add(to_usize(word(&bytes, 8)?))?;
        let end = begin.checked_add(to_usize(word(&bytes, 12)?))?;
        let names = header.checked_add(to_usize(word(&bytes, 16)?))?;
        let mut layout = Self { bytes, types: vec![0], names, structs: BTreeMap::new() };
        let mut at = begin;
        while at < end {
            let (kind, count) = layout.kind(at)?;
            if kind == STRUCT {
                let name = layout.name(word(&layout.bytes, at)?)?.to_owned();
                let number = u32::try_from(layout.types.len()).ok()?;
                layout.structs.entry(name).or_insert(number);
            }
            layout.types.push(at);
            at = at.checked_add(TYPE_BYTES)?.checked_add(extra(kind, count)?)?;
        }
        Some(layout)
    }

    /// The offset in bytes of a field, which may be one of a struct within: `inner.field`.
    pub(super) fn offset(&self, owner: &str, path: &str) -> Option<u32> {
        let mut number = *self.structs.get(owner)?;
        let mut offset = 0;
        for field in path.split('.') {
            let (within, next) = self.find(number, field, 0)?;
            offset += within;
            number = next;
        }
        Some(offset)
    }

    /// A field of a struct, or of one without a name in it: where it is, and its type.
    fn find(&self, number: u32, field: &str, depth: u32) -> Option<(u32, u32)> {
        let at = self.place(number)?;
        let (kind, count) = self.kind(at)?;
        if !matches!(kind, STRUCT | UNION) || depth > DEPTH_MAX {
            return None;
        }
        // With this flag a member's offset has the size of a bit field in its upper byte.
        let sized = word(&self.bytes, at + 4)? >> 31 == 1;
        (0..count).find_map(|index| {
            let member = at + TYPE_BYTES + index * MEMBER_BYTES;
            let name = self.name(word(&self.bytes, member)?)?;
            let next = word(&self.bytes, member + 4)?;
            let bits = word(&self.bytes, member + 8)?;
            let offset = if sized { bits & 0x00ff_ffff } else { bits } / 8;
            if name == field {
                return Some((offset, next));
            }
            if !name.is_empty() {
                return None;
            }
            let (within, found) = self.find(next, field, depth + 1)?;
            Some((offset + within, found))
        })
    }

    /// Where a type begins, behind the names and qualities it may be called by.
    fn place(&self, mut number: u32) -> Option<usize> {
        for _ in 0..DEPTH_MAX {
            let at = *self.types.get(to_usize(number)).filter(|at| **at > 0)?;
            let (kind, _) = self.kind(at)?;
            if !matches!(kind, TYPEDEF | VOLATILE | CONST | RESTRICT | TYPE_TAG) {
                return Some(at);
            }
            number = word(&self.bytes, at + 8)?;
        }
        None
    }

    fn kind(&self, at: usize) -> Option<(u32, usize)> {
        let info = word(&self.bytes, at + 4)?;
        Some(((info >> 24) & 0x1f, to_usize(info & 0xffff)))
    }

    fn name(&self, at: u32) -> Option<&str> {
        let rest = self.bytes.get(self.names.checked_add(to_usize(at))?..)?;
        let end = memchr::memchr(0, rest)?;
        std::str::from_utf8(&rest[..end]).ok()
    }
}

/// Bytes behind the first twelve of a type.
fn extra(kind: u32, count: usize) -> Option<usize> {
    Some(match kind {
        // An integer, a variable, a tag of a declaration.
        1 | 14 | 17 => 4,
        // An array.
        3 => 12,
        STRUCT | UNION => MEMBER_BYTES * count,
        // The values of an enum, the parameters of a function.
        6 | 13 => 8 * count,
        // The variables of a section, the values of a wide enum.
        15 | 19 => 12 * count,
        // Pointers, forward declarations, names, qualities, functions, floats, tags of types.
        2 | 7..=12 | 16 | 18 => 0,
        // Nobody knows how long it is.
        _ => return None,
    })
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

fn to_usize(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::{Layout, VMLINUX};

    #[test]
    fn fields_of_this_kernel_are_where_they_may_be() {
        let Ok(bytes) = std::fs::read(VMLINUX) else { return };
        let layout = Layout::parse(bytes).expect("the kernel describes itself");
        let at = |path| layout.offset("tcp_sock", path).unwrap_or_else(|| panic!("no {path}"));
        let inner = at("inet_conn.icsk_retransmits");
        assert!(inner > at("inet_conn.icsk_inet.sk") && inner < at("srtt_us"));
        assert_eq!(at("snd_una") % 4, 0);
        assert_eq!(layout.offset("tcp_sock", "no_such_field"), None);
        assert_eq!(layout.offset("no_such_struct", "snd_una"), None);
    }

    #[test]
    fn nonsense_is_none() {
        let Ok(bytes) = std::fs::read(VMLINUX) else { return };
        assert!(Layout::parse(Vec::new()).is_none() && Layout::parse(vec![0; 64]).is_none());
        // A file that was cut, and one with numbers that lead out of it.
        for len in [2, 10, 24, 100, 10_000] {
            assert!(Layout::parse(bytes[..len].to_vec()).is_none(), "{len}");
        }
        for at in [4, 8, 12, 16, 24, 28] {
            let mut bent = bytes[..10_000].to_vec();
            bent[at..at + 4].fill(0xff);
            assert!(Layout::parse(bent).is_none(), "{at}");
        }
    }
}
