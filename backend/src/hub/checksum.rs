//! What the hub says a file must be. Large files are named by the SHA-256 of their content, small
//! ones as git names blobs: by the SHA-1 of `blob SIZE\0` and the content.

use std::fmt::LowerHex;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use sha1::Sha1;
use sha2::digest::Output;
use sha2::{Digest, Sha256};

use super::BLOCK;

/// A file's checksum, in lower-case hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Checksum {
    Sha256(String),
    GitBlob(String),
}

impl Checksum {
    /// `None` if `digits` are not 64 hexadecimal ones.
    pub(super) fn sha256(digits: &str) -> Option<Self> {
        is_hex(digits, 64).then(|| Self::Sha256(digits.to_owned()))
    }

    /// `None` if `digits` are not 40 hexadecimal ones.
    pub(super) fn git_blob(digits: &str) -> Option<Self> {
        is_hex(digits, 40).then(|| Self::GitBlob(digits.to_owned()))
    }

    /// Its digits: safe as a file's name.
    pub(super) fn digits(&self) -> &str {
        match self {
            Self::Sha256(digits) | Self::GitBlob(digits) => digits,
        }
    }

    /// Whether the file at `path` has it.
    pub(super) fn matches(&self, path: &Path) -> io::Result<bool> {
        let file = File::open(path)?;
        let found = match self {
            Self::Sha256(_) => digest(Sha256::new(), file)?,
            Self::GitBlob(_) => {
                let size = file.metadata()?.len();
                digest(Sha1::new_with_prefix(format!("blob {size}\0")), file)?
            }
        };
        Ok(found == self.digits())
    }
}

/// The hash of what went in before and the rest of `file`, in hexadecimal digits.
fn digest<D: Digest>(mut hash: D, mut file: File) -> io::Result<String>
where
    Output<D>: LowerHex,
{
    let mut block = vec![0; BLOCK];
    loop {
        match file.read(&mut block)? {
            0 => return Ok(format!("{:x}", hash.finalize())),
            count => hash.update(&block[..count]),
        }
    }
}

/// Exactly `length` lower-case hexadecimal digits.
pub(super) fn is_hex(digits: &str, length: usize) -> bool {
    let hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    digits.len() == length && digits.bytes().all(hex)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As `git hash-object` and `sha256sum` tell them.
    #[test]
    fn checksums_are_those_of_git_and_sha256sum() {
        let folder = tempfile::tempdir().unwrap();
        let (hello, other) = (folder.path().join("hello"), folder.path().join("other"));
        std::fs::write(&hello, "hello\n").unwrap();
        std::fs::write(&other, "hullo\n").unwrap();
        let git = "ce013625030ba8dba906f756967f9e9ca394464a";
        let sha = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03";
        for checksum in [Checksum::git_blob(git), Checksum::sha256(sha)] {
            let checksum = checksum.unwrap();
            assert!(checksum.matches(&hello).unwrap());
            assert!(!checksum.matches(&other).unwrap());
        }
    }

    #[test]
    fn only_digits_make_a_checksum() {
        let good = "0123456789abcdef0123456789abcdef01234567";
        assert!(Checksum::git_blob(good).is_some());
        let path = format!("../{}", &good[3..]);
        for bad in ["", "abc", &good.to_uppercase(), &path] {
            assert_eq!(Checksum::git_blob(bad), None, "{bad}");
            assert_eq!(Checksum::sha256(bad), None, "{bad}");
        }
    }
}
