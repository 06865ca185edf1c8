//! From the bytes of a JSON document to text.
//!
//! JSON over HTTP is UTF-8 (RFC 8259 §8.1), but the Python service also reads UTF-16 and UTF-32,
//! told apart as in RFC 4627 §3: by a byte order mark, else by where the zero bytes are among the
//! first four (a JSON document begins with two ASCII characters, or is a single one).

use std::borrow::Cow;

/// The bytes are no text in the encoding that they seem to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NotText;

/// The text of `bytes`, without byte order mark. Borrows where the bytes are UTF-8 already.
pub(super) fn decode(bytes: &[u8]) -> Result<Cow<'_, str>, NotText> {
    match bytes {
        [0xEF, 0xBB, 0xBF, rest @ ..] => utf8(rest),
        [0xFF, 0xFE, 0, 0, rest @ ..] => utf32(rest, u32::from_le_bytes),
        [0, 0, 0xFE, 0xFF, rest @ ..] => utf32(rest, u32::from_be_bytes),
        [0xFF, 0xFE, rest @ ..] => utf16(rest, u16::from_le_bytes),
        [0xFE, 0xFF, rest @ ..] => utf16(rest, u16::from_be_bytes),
        [0, 0, _, _, ..] => utf32(bytes, u32::from_be_bytes),
        [_, 0, 0, 0, ..] => utf32(bytes, u32::from_le_bytes),
        [0, _] | [0, _, _, _, ..] => utf16(bytes, u16::from_be_bytes),
        [_, 0] | [_, 0, _, _, ..] => utf16(bytes, u16::from_le_bytes),
        _ => utf8(bytes),
    }
}

fn utf8(bytes: &[u8]) -> Result<Cow<'_, str>, NotText> {
    str::from_utf8(bytes)
        .map(Cow::Borrowed)
        .map_err(|_| NotText)
}

fn utf16(bytes: &[u8], unit: fn([u8; 2]) -> u16) -> Result<Cow<'_, str>, NotText> {
    let (units, []) = bytes.as_chunks::<2>() else {
        return Err(NotText);
    };
    let text: Result<String, _> =
        char::decode_utf16(units.iter().map(|&pair| unit(pair))).collect();
    text.map(Cow::Owned).map_err(|_| NotText)
}

fn utf32(bytes: &[u8], unit: fn([u8; 4]) -> u32) -> Result<Cow<'_, str>, NotText> {
    let (units, []) = bytes.as_chunks::<4>() else {
        return Err(NotText);
    };
    let text: Option<String> = units
        .iter()
        .map(|&quad| char::from_u32(unit(quad)))
        .collect();
    text.map(Cow::Owned).ok_or(NotText)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOCUMENT: &str = r#"{"texts":["é🚀"]}"#;

    fn utf16_of(text: &str, unit: fn(u16) -> [u8; 2]) -> Vec<u8> {
        text.encode_utf16().flat_map(unit).collect()
    }

    fn utf32_of(text: &str, unit: fn(u32) -> [u8; 4]) -> Vec<u8> {
        text.chars().flat_map(|c| unit(u32::from(c))).collect()
    }

    #[test]
    fn every_encoding_is_read_with_and_without_mark() {
        let marked = format!("\u{FEFF}{DOCUMENT}");
        for text in [DOCUMENT, marked.as_str()] {
            let encodings = [
                text.as_bytes().to_vec(),
                utf16_of(text, u16::to_le_bytes),
                utf16_of(text, u16::to_be_bytes),
                utf32_of(text, u32::to_le_bytes),
                utf32_of(text, u32::to_be_bytes),
            ];
            for bytes in encodings {
                assert_eq!(decode(&bytes).as_deref(), Ok(DOCUMENT), "{bytes:?}");
            }
        }
    }

    #[test]
    fn a_single_character_is_read() {
        assert_eq!(decode(b"3").as_deref(), Ok("3"));
        assert_eq!(decode(b"3\0").as_deref(), Ok("3"));
        assert_eq!(decode(b"\x003").as_deref(), Ok("3"));
    }

    #[test]
    fn what_is_no_text_is_refused() {
        let table: [&[u8]; 5] = [
            b"{\"texts\":[\"\xFF\xFE\"]}",
            b"\"\xED\xA0\x80\"",
            b"\xFF\xFE{",
            b"\xFF\xFE\x00\xD8",
            b"\xFF\xFE\0\0\0\0\x11\0",
        ];
        for bytes in table {
            assert_eq!(decode(bytes), Err(NotText), "{bytes:?}");
        }
    }
}
