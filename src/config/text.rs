//! Files as text: what their bytes say, or why they are no text that could be meant.

/// Put in front of UTF-8 by some editors; says nothing.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Why bytes are no text. A clause about the file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum NotText {
    #[error("it is UTF-16; save it as UTF-8")]
    Utf16,
    #[error("it is not text, but holds bytes that no text does (line {line})")]
    Binary { line: usize },
    #[error("it is not UTF-8 (line {line}, byte {byte} of it); save it as UTF-8")]
    NotUtf8 { line: usize, byte: usize },
}

/// Without the mark, if there is one.
pub(super) fn without_mark(mut bytes: Vec<u8>) -> Vec<u8> {
    if bytes.starts_with(BYTE_ORDER_MARK) {
        bytes.drain(..BYTE_ORDER_MARK.len());
    }
    bytes
}

/// The text that the bytes are.
pub(super) fn decode(bytes: Vec<u8>) -> Result<String, NotText> {
    let is_ascii_in_16_bits =
        bytes.len() > 3 && (bytes[0] == 0 || bytes[1] == 0) && bytes[0] != bytes[1];
    if bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff") || is_ascii_in_16_bits {
        return Err(NotText::Utf16);
    }
    if let Some(at) = bytes.iter().position(|byte| *byte == 0) {
        let line = line_of(&bytes[..=at]);
        return Err(NotText::Binary { line });
    }
    String::from_utf8(without_mark(bytes)).map_err(|error| {
        let good = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line_start = good
            .iter()
            .rposition(|byte| *byte == b'\n')
            .map_or(0, |at| at + 1);
        NotText::NotUtf8 {
            line: line_of(good),
            byte: good.len() - line_start + 1,
        }
    })
}

/// In which the last byte of them is.
fn line_of(bytes: &[u8]) -> usize {
    bytes.split(|byte| *byte == b'\n').count()
}

/// What to say of a value that names no file that can be read. It is not repeated: it may be a secret, in the wrong
/// place.
pub(crate) fn no_file(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::IsADirectory => "names a folder".to_owned(),
        _ => format!("names a file that {}", why_unreadable(error)),
    }
}

/// A clause about the file.
pub(super) fn why_unreadable(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::IsADirectory => "is a folder, not a file".to_owned(),
        _ => format!("can't be read: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_told_from_what_is_none() {
        let table: [(&[u8], Result<&str, NotText>); 9] = [
            (b"", Ok("")),
            (b"a: 1\r\n", Ok("a: 1\r\n")),
            (b"\xef\xbb\xbfa: 1", Ok("a: 1")),
            (b"\xff\xfea\0:\0", Err(NotText::Utf16)),
            (b"\xfe\xff\0a\0:", Err(NotText::Utf16)),
            (b"a\0:\0 \0", Err(NotText::Utf16)),
            (b"\0a\0:", Err(NotText::Utf16)),
            (b"\x7fELF\n\0\0", Err(NotText::Binary { line: 2 })),
            (b"a: 1\nb: \xe4", Err(NotText::NotUtf8 { line: 2, byte: 4 })),
        ];
        for (bytes, expected) in table {
            assert_eq!(decode(bytes.to_vec()), expected.map(str::to_owned));
        }
    }
}
