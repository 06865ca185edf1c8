//! `${VARIABLE}` in values.
//!
//! Values are expanded after the YAML has been parsed, so that what a variable holds can't change
//! the structure of the configuration. `$${` stands for a literal `${`.

/// Why a value can't be expanded. What stands where a name should may be a secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum BadReference {
    #[error("the environment variable {} is not set", shown(.0, "that it names"))]
    Missing(String),
    #[error("'${{' without '}}'; write ${{NAME}}, or $${{ for a literal ${{")]
    Unclosed,
    #[error("what stands in '${{…}}' is no name of a variable; write ${{NAME}}")]
    BadName,
    #[error("${name} without braces stands for nothing; write ${{{name}}}", name = shown(.0, "NAME"))]
    Bare(String),
}

/// Words by which a variable says that it holds a secret.
const SECRETS: [&str; 5] = ["KEY", "KEYS", "PASSWORD", "SECRET", "TOKEN"];

/// Variables are mostly in capitals, and keys mostly are not.
fn shown<'a>(name: &'a str, otherwise: &'a str) -> &'a str {
    let is_usual = |byte: u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_';
    if name.len() <= 40 && name.bytes().all(is_usual) {
        name
    } else {
        otherwise
    }
}

impl BadReference {
    /// The same of a value that is a secret, of which nothing is repeated but what calls itself a key.
    pub(super) fn of_secret(&self) -> String {
        match self {
            Self::Missing(name) | Self::Bare(name) if is_name_of_secret(name) => self.to_string(),
            Self::Missing(_) => "names an environment variable that is not set; write ${NAME} with the name of one that is, or the key itself".to_owned(),
            Self::Bare(_) => "'$' without braces stands for nothing; write ${NAME}".to_owned(),
            Self::Unclosed | Self::BadName => self.to_string(),
        }
    }
}

/// Is it words in capitals, one of which says that a secret is there (`GPU_KEY_2`)? No key of chance is.
fn is_name_of_secret(name: &str) -> bool {
    let number = |char: char| char.is_ascii_digit();
    let stem = name.trim_end_matches(number);
    let is_words = |byte: u8| byte.is_ascii_uppercase() || byte == b'_';
    stem.bytes().all(is_words)
        && name.len() - stem.len() <= 2
        && name.len() <= 40
        && stem.split('_').any(|word| SECRETS.contains(&word))
}

/// Is there a `%NAME%`, which one system's shell replaces?
pub(super) fn has_percents(text: &str) -> bool {
    let is_variable = |name: &str| {
        let is_usual =
            |byte: u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_';
        name.len() > 2 && is_name(name) && name.bytes().all(is_usual)
    };
    let mut between: Vec<&str> = text.split('%').skip(1).collect();
    between.pop();
    between.into_iter().any(is_variable)
}

/// Refuses `$NAME`, which shells know, where nothing else can be meant.
pub(super) fn refuse_bare(text: &str) -> Result<(), BadReference> {
    let mut names = text.split('$').skip(1).map(leading_name);
    match names.find(|name| is_name(name)) {
        Some(name) => Err(BadReference::Bare(name.to_owned())),
        None => Ok(()),
    }
}

/// The same for a secret, which may well hold a `$`: only if it looks like nothing else.
pub(super) fn refuse_bare_secret(text: &str) -> Result<(), BadReference> {
    let name = text.strip_prefix('$').unwrap_or_default();
    if is_name(name) && !name.bytes().any(|byte| byte.is_ascii_lowercase()) {
        return Err(BadReference::Bare(name.to_owned()));
    }
    Ok(())
}

fn leading_name(text: &str) -> &str {
    let end = text.find(|char: char| !char.is_ascii_alphanumeric() && char != '_');
    end.map_or(text, |end| &text[..end])
}

/// Replaces all references in `text`.
pub(super) fn expand(
    text: &str,
    variable: &dyn Fn(&str) -> Option<String>,
) -> Result<String, BadReference> {
    let mut expanded = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find("${") {
        let (before, reference) = rest.split_at(start);
        if let Some(before) = before.strip_suffix('$') {
            expanded.push_str(before);
            expanded.push_str("${");
            rest = &reference[2..];
            continue;
        }
        let (name, after) = reference[2..]
            .split_once('}')
            .ok_or(BadReference::Unclosed)?;
        if !is_name(name) {
            return Err(BadReference::BadName);
        }
        expanded.push_str(before);
        let value = variable(name).ok_or_else(|| BadReference::Missing(name.to_owned()))?;
        expanded.push_str(&value);
        rest = after;
    }
    expanded.push_str(rest);
    Ok(expanded)
}

fn is_name(text: &str) -> bool {
    !text.is_empty()
        && !text.starts_with(|first: char| first.is_ascii_digit())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_without_braces() {
        let bare = |name: &str| Err(BadReference::Bare(name.to_owned()));
        for (text, expected) in [
            ("http://$HOST:8765", bare("HOST")),
            ("$wait", bare("wait")),
            ("${HOST}", Ok(())),
            ("$${HOST}", Ok(())),
            ("5$", Ok(())),
        ] {
            assert_eq!(refuse_bare(text), expected, "{text}");
        }
        for (text, expected) in [
            ("$GPU_KEY", bare("GPU_KEY")),
            ("a$GPU_KEY", Ok(())),
            ("$hunter", Ok(())),
            ("$HUNTER!", Ok(())),
            ("$", Ok(())),
        ] {
            assert_eq!(refuse_bare_secret(text), expected, "{text}");
        }
    }

    #[test]
    fn names_between_percents() {
        for (text, expected) in [
            ("%GPU_KEY%", true),
            ("http://%HOST%:8765", true),
            ("%GPU_KEY", false),
            ("/a%20b%20c", false),
            ("100 %", false),
            ("/%C3%A9", false),
        ] {
            assert_eq!(has_percents(text), expected, "{text}");
        }
    }

    #[test]
    fn a_secret_is_not_repeated_but_a_variable_that_calls_itself_one_is() {
        for name in ["GPU_KEY_2", "KEY", "API_TOKEN", "GPU_KEY12"] {
            let told = BadReference::Missing(name.to_owned()).of_secret();
            assert!(told.contains(name), "{told}");
        }
        for secret in [
            "sk_live_key",
            "THEKEY",
            "AKIA7Q2",
            "KEY_7F3A_KEY",
            "TOKEN_88125",
        ] {
            for bad in [BadReference::Missing, BadReference::Bare] {
                let told = bad(secret.to_owned()).of_secret();
                assert!(!told.contains(secret), "{told}");
            }
        }
    }

    #[test]
    fn references() {
        let variable = |name: &str| match name {
            "KEY" => Some("k${KEY}: [".to_owned()),
            "EMPTY" => Some(String::new()),
            _ => None,
        };
        let table = [
            ("plain $x {y}", Ok("plain $x {y}")),
            ("${KEY}", Ok("k${KEY}: [")),
            ("a${EMPTY}b${KEY}c", Ok("abk${KEY}: [c")),
            ("$${KEY}", Ok("${KEY}")),
            ("${NOPE}", Err(BadReference::Missing("NOPE".to_owned()))),
            ("${KEY", Err(BadReference::Unclosed)),
            ("${}", Err(BadReference::BadName)),
            ("${1A}", Err(BadReference::BadName)),
        ];
        for (text, expected) in table {
            assert_eq!(
                expand(text, &variable),
                expected.map(str::to_owned),
                "{text}"
            );
        }
    }
}
