//! What single bytes mean to the scanner, as tables.

/// What the first byte of a token says of it.
#[derive(Clone, Copy)]
pub(super) enum Class {
    Space,
    Letter,
    /// `E`: of a word, or before a string with backslashes.
    Escape,
    /// `B`, `N` and `X`: of a word, or before a string.
    Prefix,
    /// `U`: of a word, or before `&'` and `&"`.
    Unicode,
    Digit,
    Quote,
    DoubleQuote,
    Dollar,
    Minus,
    Slash,
    Semicolon,
    Dot,
    Other,
}

/// By first byte.
pub(super) static CLASS: [Class; 256] = {
    let mut table = [Class::Other; 256];
    let mut byte = 0u8;
    loop {
        table[byte as usize] = match byte {
            b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c => Class::Space,
            b'e' | b'E' => Class::Escape,
            b'b' | b'B' | b'n' | b'N' | b'x' | b'X' => Class::Prefix,
            b'u' | b'U' => Class::Unicode,
            b'a'..=b'z' | b'A'..=b'Z' | b'_' | 0x80..=0xff => Class::Letter,
            b'0'..=b'9' => Class::Digit,
            b'\'' => Class::Quote,
            b'"' => Class::DoubleQuote,
            b'$' => Class::Dollar,
            b'-' => Class::Minus,
            b'/' => Class::Slash,
            b';' => Class::Semicolon,
            b'.' => Class::Dot,
            _ => Class::Other,
        };
        if byte == u8::MAX {
            break table;
        }
        byte += 1;
    }
};

/// Whether a byte goes on with a word that has begun.
pub(super) static IN_WORD: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0u8;
    loop {
        table[byte as usize] = matches!(
            byte,
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'$' | 0x80..=0xff
        );
        if byte == u8::MAX {
            break table;
        }
        byte += 1;
    }
};
