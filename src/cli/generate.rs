//! What is made from the command line's own description: completions for shells, manual pages.

use std::io;
use std::path::Path;

use clap::Command;
use clap_complete::Shell;

use super::failure::Failure;

pub(super) fn completions(mut command: Command, shell: Shell) {
    let name = command.get_name().to_owned();
    clap_complete::generate(shell, &mut command, name, &mut io::stdout());
}

/// All pages into `folder`, or the main one to standard output.
pub(super) fn man(command: Command, folder: Option<&Path>) -> Result<(), Failure> {
    match folder {
        Some(folder) => {
            std::fs::create_dir_all(folder)?;
            clap_mangen::generate_to(command, folder)?;
        }
        None => clap_mangen::Man::new(command).render(&mut io::stdout())?,
    }
    Ok(())
}
