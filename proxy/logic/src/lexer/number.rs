//! How long a number is, as `PostgreSQL` 18 cuts it.

/// The length of the number at the start of `text`, which begins with a digit, or a dot and one.
///
/// A dot belongs to it unless another follows (`1..2` is a range), an exponent or a prefix
/// (`0x`, `0o`, `0b`) only if there is a digit behind it.
pub(super) fn length(text: &[u8]) -> usize {
    if let [b'0', prefix, rest @ ..] = text {
        let digit: fn(&u8) -> bool = match prefix {
            b'x' | b'X' => u8::is_ascii_hexdigit,
            b'o' | b'O' => |byte| matches!(byte, b'0'..=b'7'),
            b'b' | b'B' => |byte| matches!(byte, b'0' | b'1'),
            _ => |_| false,
        };
        let digits = digits(rest, digit, true);
        if digits > 0 {
            return 2 + digits;
        }
    }
    let mut at = digits(text, u8::is_ascii_digit, false);
    if text.get(at) == Some(&b'.') && text.get(at + 1) != Some(&b'.') {
        at += 1;
        at += digits(&text[at..], u8::is_ascii_digit, false);
    }
    if let Some(b'e' | b'E') = text.get(at) {
        let sign = usize::from(matches!(text.get(at + 1), Some(b'+' | b'-')));
        let from = at + 1 + sign;
        let exponent = digits(text.get(from..).unwrap_or_default(), u8::is_ascii_digit, false);
        if exponent > 0 {
            return from + exponent;
        }
    }
    at
}

/// How many bytes at the start of `text` are digits, with single low lines between them; `lead`:
/// also one in front.
fn digits(text: &[u8], digit: fn(&u8) -> bool, lead: bool) -> usize {
    let mut at = 0;
    loop {
        let line = usize::from((at > 0 || lead) && text.get(at) == Some(&b'_'));
        if !text.get(at + line).is_some_and(digit) {
            return at;
        }
        at += line + 1;
    }
}

#[cfg(test)]
mod tests {
    use super::length;

    #[test]
    fn a_number_ends_where_the_scanner_ends_it() {
        for (text, number) in [
            ("1", "1"),
            ("12.5e-3x", "12.5e-3"),
            ("1.e5", "1.e5"),
            (".5.6", ".5"),
            ("1..2", "1"),
            ("1_000_x", "1_000"),
            ("1__0", "1"),
            ("0x_1F_g", "0x_1F"),
            ("0b102", "0b10"),
            ("0o18", "0o1"),
            ("0x", "0"),
            ("1else", "1"),
            ("1e+", "1"),
            ("00.1", "00.1"),
            ("1._5", "1."),
        ] {
            assert_eq!(&text[..length(text.as_bytes())], number, "{text}");
        }
    }
}
