//! What is made from the command line's own description: completions for shells, manual pages.

use std::path::Path;

use clap::Command;
use clap_complete::Shell;

use super::failure::Failure;
use super::print;

pub(super) fn completions(mut command: Command, shell: Shell) -> Result<(), Failure> {
    let name = command.get_name().to_owned();
    // Not to standard output itself: where it does not take them, that panics.
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut command, name, &mut text);
    print(&String::from_utf8_lossy(&text))
}

/// All pages into `folder`, or the main one to standard output.
pub(super) fn man(command: Command, folder: Option<&Path>) -> Result<(), Failure> {
    let Some(folder) = folder else {
        let mut text = Vec::new();
        clap_mangen::Man::new(command).render(&mut text)?;
        return print(&String::from_utf8_lossy(&text));
    };
    std::fs::create_dir_all(folder)?;
    clap_mangen::generate_to(command, folder)?;
    Ok(())
}
