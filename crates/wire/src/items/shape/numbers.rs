//! Counts the numbers of a list, which must be JSON's and, as embeddings and scores are computed as such, be no larger
//! than an `f32` can be: what is read as one would be infinite.
//!
//! Those that programs write are *plain*: at most one digit before the point, no positive power of ten, a space at most
//! after a comma. That can be told from a few neighbours of each byte, many bytes together. All others a parser reads
//! one by one, at a tenth of the speed.

/// Bytes that are looked at together, and those before each that tell whether it may stand there.
const BLOCK: usize = 64;
const BACK: usize = 4;
/// Bytes after which one odd number costs no more time.
const PIECE: usize = 4 << 10;
/// Digits of a number that is not too large, whatever they are.
const SAFE: usize = 38;

/// What a list, or a piece of one, holds.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Count {
    pub(super) numbers: usize,
    /// One of them.
    pub(super) is_too_large: bool,
    /// Where the first thing begins that is neither a number nor null.
    pub(super) other: Option<usize>,
}

/// What `list` holds, from the beginning of one of its numbers to the end of one.
pub(super) fn count(list: &[u8]) -> Count {
    let mut found = Count::default();
    let mut start = 0;
    while found.other.is_none() {
        let rest = list.get(start..).unwrap_or_default();
        let near = rest.get(..PIECE).and_then(|it| memchr::memrchr(b',', it));
        let end = near.or_else(|| memchr::memchr(b',', rest.get(PIECE..)?).map(|at| at + PIECE));
        let piece = rest.get(..end.unwrap_or(rest.len())).unwrap_or(rest);
        match plain(piece) {
            Some(numbers) => found.numbers += numbers,
            None => found.one_by_one(piece, start),
        }
        match end {
            Some(end) => start += end + 1,
            None => break,
        }
    }
    found
}

impl Count {
    fn one_by_one(&mut self, piece: &[u8], mut start: usize) {
        for number in piece.split(|byte| *byte == b',') {
            match serde_json::from_slice::<Option<f32>>(number) {
                Ok(read) => self.is_too_large |= read.is_some_and(|it| !it.is_finite()),
                Err(_) if is_number(number) => self.is_too_large = true,
                Err(_) => {
                    self.other = Some(start);
                    return;
                }
            }
            self.numbers += 1;
            start += number.len() + 1;
        }
    }
}

/// Of any size?
fn is_number(json: &[u8]) -> bool {
    let is_value = serde_json::from_slice::<serde::de::IgnoredAny>(json).is_ok();
    is_value && matches!(json.trim_ascii_start().first(), Some(b'-' | b'0'..=b'9'))
}

/// How many numbers there are, if all are plain.
fn plain(list: &[u8]) -> Option<usize> {
    let mut seen = Seen::default();
    let (blocks, rest) = list.as_chunks::<BLOCK>();
    // It begins as if after a comma, and ends before one; those that fill the last block have numbers between them.
    let mut edge = [b','; BACK + BLOCK];
    for (at, block) in blocks.iter().enumerate() {
        let behind = (at * BLOCK).checked_sub(BACK);
        if let Some(window) = behind.and_then(|from| list.get(from..)?.first_chunk()) {
            seen.block(window);
        } else {
            edge[BACK..].copy_from_slice(block);
            seen.block(&edge);
        }
    }
    let before = list.len() - rest.len();
    if let Some(behind) = list.get(..before).and_then(|it| it.last_chunk::<BACK>()) {
        edge[..BACK].copy_from_slice(behind);
    }
    let fill = std::iter::repeat([b',', b'1']).flatten();
    let rest_and_fill = rest.iter().copied().chain(fill);
    edge[BACK..]
        .iter_mut()
        .zip(rest_and_fill)
        .for_each(|(place, byte)| *place = byte);
    seen.block(&edge);
    let filled = (BLOCK - rest.len()).div_ceil(2);
    let numbers = (seen.commas + 1).checked_sub(filled)?;
    // With a point each is less than ten.
    let is_small = || seen.points == numbers || is_short(list);
    (!seen.is_odd && seen.powers == seen.ends && is_small()).then_some(numbers)
}

fn is_short(list: &[u8]) -> bool {
    let mut numbers = list.split(|byte| *byte == b',');
    numbers.all(|number| number.len() <= SAFE)
}

/// What has been seen of a list.
#[derive(Debug, Default)]
struct Seen {
    commas: usize,
    points: usize,
    /// Powers of ten, and those that have one or two digits.
    powers: usize,
    ends: usize,
    is_odd: bool,
}

impl Seen {
    /// Sees a block behind the bytes before it. Few have a power of ten.
    fn block(&mut self, window: &[u8; BACK + BLOCK]) {
        let is_behind_power = window[..BACK].contains(&b'e');
        if is_behind_power || !self.bytes::<false>(window) {
            self.is_odd |= !self.bytes::<true>(window);
        }
    }

    /// Are all that may stand there? They are counted then. The compiler looks at 16 bytes together, since nothing
    /// depends on where the first odd one is.
    fn bytes<const POWERS: bool>(&mut self, window: &[u8; BACK + BLOCK]) -> bool {
        let (mut odd, mut commas, mut points) = (0, 0_u8, 0_u8);
        let (mut powers, mut ends) = (0_u8, 0_u8);
        for at in 0..BLOCK {
            let near = [
                window[at],
                window[at + 1],
                window[at + 2],
                window[at + 3],
                window[at + BACK],
            ];
            odd |= u8::from(!may_stand::<POWERS>(near));
            // They can't overflow, and a check of that would keep the compiler from looking at several together.
            let byte = near[BACK];
            commas = commas.wrapping_add(u8::from(byte == b','));
            points = points.wrapping_add(u8::from(byte == b'.'));
            if POWERS {
                powers = powers.wrapping_add(u8::from(byte == b'e'));
                ends = ends.wrapping_add(u8::from(ends_power(near)));
            }
        }
        if odd == 0 {
            self.commas += usize::from(commas);
            self.points += usize::from(points);
            self.powers += usize::from(powers);
            self.ends += usize::from(ends);
        }
        odd == 0
    }
}

/// Is the last of these bytes the comma behind a power of ten of one or two digits?
#[expect(
    clippy::needless_bitwise_bool,
    reason = "without branches it takes half the time"
)]
fn ends_power([fourth, third, _, _, byte]: [u8; BACK + 1]) -> bool {
    (byte == b',') & ((third == b'e') | (fourth == b'e'))
}

/// May the last of these bytes stand there, if the others may? A number has one point at most then, right behind its
/// first digit, no needless zero before that, and a minus after each `e`, if there may be one.
#[expect(
    clippy::needless_bitwise_bool,
    reason = "without branches it takes half the time"
)]
fn may_stand<const POWERS: bool>([_, third, second, before, byte]: [u8; BACK + 1]) -> bool {
    let is_digit = |byte: u8| byte.wrapping_sub(b'0') < 10;
    let is_power = |byte: u8| POWERS & (byte == b'e');
    // A comma or a space, of all that may stand anywhere.
    let is_gap = |byte: u8| byte & 0xF3 == 0x20;
    let is_first = is_gap(second) | ((second == b'-') & !is_power(third));
    let is_needless = (before == b'0') & is_first;
    let ends = (byte == b',') | is_power(byte) | ((byte == b'.') & is_first);
    (is_digit(byte) & !is_power(before) & !is_needless)
        | (is_digit(before) & ends)
        | ((byte == b'-') & (is_gap(before) | is_power(before)))
        | ((byte == b' ') & (before == b','))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// As `serde_json` reads a list of such things.
    fn read(list: &str) -> Option<Vec<Option<f64>>> {
        serde_json::from_str(&format!("[{list}]")).ok()
    }

    #[test]
    fn programs_write_plain_numbers() {
        for list in [
            "0.5,-1e-05",
            "0.0, -0.25",
            "-0,5e-7",
            "1.5e-10",
            "7",
            "-1.0,0,1",
        ] {
            assert!(plain(list.as_bytes()).is_some(), "{list}");
        }
        let digits = |count| "9".repeat(count);
        let sizes = [(SAFE, false), (SAFE + 1, true), (400, true)];
        for (length, is_too_large) in sizes {
            let found = count(format!("1,{}", digits(length)).as_bytes());
            assert_eq!((found.numbers, found.is_too_large), (2, is_too_large));
        }
        for (number, is_too_large) in [
            ("3.4028235e38", false),
            ("-3.4029e38", true),
            ("1e-99", false),
        ] {
            assert_eq!(
                count(number.as_bytes()).is_too_large,
                is_too_large,
                "{number}"
            );
        }
    }

    proptest! {
        /// What a parser takes for numbers is counted, and nothing else, whatever stands before and behind it.
        #[test]
        fn it_is_json_s_grammar(
            number in "[-+]{0,2}[0-9]{0,3}[.]{0,2}[0-9]{0,2}([.]|[eE][-+]{0,2}[0-9]{0,3}[.e]{0,1}){0,2}| ?null ?|[-0-9.eE+, ]{0,6}",
            before in 0..70_usize,
            after in 0..70_usize,
            is_spaced in any::<bool>(),
        ) {
            let comma = if is_spaced { ", " } else { "," };
            let others = |count| vec!["0.25"; count];
            let list = [others(before), vec![&number], others(after)].concat().join(comma);
            let found = count(list.as_bytes());
            let expected = read(&list);
            if found.is_too_large {
                let is_finite = |it: &Option<f64>| it.is_none_or(|it| it.abs() < 3.5e38);
                prop_assert!(!expected.is_some_and(|it| it.iter().all(is_finite)), "{}", number);
            } else {
                let is_read = expected.map(|it| it.len());
                prop_assert_eq!(found.other.is_none().then_some(found.numbers), is_read, "{}", number);
            }
        }
    }
}
