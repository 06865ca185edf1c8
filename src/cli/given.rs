//! What the environment and the command line say, before it is understood, and of which no secret is repeated.

use std::ffi::{OsStr, OsString};

use clap::builder::Resettable;
use clap::error::{ContextKind, ContextValue};
use clap::{Command, Error};

use crate::config;

/// An environment variable that is empty is taken for one that is not set, as scripts and compose files mean it.
pub(super) fn without_empty(
    command: Command,
    lookup: impl Fn(&OsStr) -> Option<OsString> + Copy,
) -> Command {
    let command = command.mut_args(|argument| {
        let value = argument.get_env().and_then(lookup);
        if value.is_some_and(|value| value.is_empty()) {
            argument.env(Resettable::Reset)
        } else {
            argument
        }
    });
    command.mut_subcommands(|command| without_empty(command, lookup))
}

/// Without values that may be secrets, in the place of others; the options are named.
pub(super) fn without_secrets(mut error: Error) -> Error {
    for kind in [ContextKind::InvalidValue, ContextKind::InvalidArg] {
        if let Some(ContextValue::String(value)) = error.get(kind)
            && !value.starts_with('-')
            && !config::is_no_secret(value)
        {
            error.insert(kind, ContextValue::String("***".to_owned()));
        }
    }
    error
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory as _, Parser as _};

    use super::*;
    use crate::cli::Cli;

    #[test]
    fn a_variable_that_is_empty_is_not_set() {
        let named = |is_empty| {
            let value = move |_: &OsStr| Some(OsString::from(if is_empty { "" } else { "x" }));
            let command = without_empty(Cli::command(), value);
            let commands = command.get_subcommands();
            let named = commands.flat_map(Command::get_arguments);
            named.filter(|it| it.get_env().is_some()).count()
        };
        assert_eq!((named(false), named(true)), (2, 0));
    }

    #[test]
    fn no_value_that_may_be_a_secret_is_repeated() {
        let words = "embed --in a --out b";
        for (arguments, told) in [
            ("--url sk-hunter2", "invalid value '***' for '--url <URL>'"),
            ("--url http://u:hunter2@a:99999", "'--url <URL>'"),
            ("--url http://a:99999", "invalid value 'http://a:99999'"),
            ("--key sk-hunter2", "'--key-file'"),
            ("--key=sk-hunter2", "'--key-file'"),
            ("sk-hunter2", "unexpected argument '***'"),
            ("--patience 5hunter2", "'--patience <TIME>'"),
            ("--batch hunter2", "'--batch <N>'"),
            ("--batch 0", "'0' for '--batch <N>': 0 is not in 1..=10000"),
            (
                "--concurrency 0",
                "'0' for '--concurrency <N>': 0 is not in 1..=1000",
            ),
        ] {
            let given = format!("gpu-bridge {words} {arguments}");
            let error = Cli::try_parse_from(given.split(' ')).unwrap_err();
            let shown = without_secrets(error).to_string();
            assert!(!shown.contains("hunter2"), "{shown}");
            assert!(shown.contains(told), "{shown}");
        }
    }
}
