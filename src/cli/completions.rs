//! `pomona completions` and `pomona man`

use std::{fs, path::Path};

use clap::CommandFactory;

use crate::{Error, ErrorKind, Result};

use super::{
    args::{Args, CompletionsArgs, ManArgs},
    out::out,
};

const NAME: &str = "pomona";

pub(crate) fn completions(args: &CompletionsArgs) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Args::command(), NAME, &mut script);
    out(&String::from_utf8_lossy(&script))
}

/// Writes a page for the program and one for each command.
pub(crate) fn man(args: &ManArgs) -> Result<()> {
    let failed = |e: std::io::Error| {
        let error = Error::new(ErrorKind::StoreFailed, "the man pages could not be written").source(e);
        error.context("folder", args.folder.display())
    };
    fs::create_dir_all(&args.folder).map_err(failed)?;
    let mut command = Args::command();
    command.build();
    let pages = write_pages(&command, NAME, &args.folder).map_err(failed)?;
    out(&format!("{pages} pages in {0}; try `man {0}/{NAME}.1`\n", args.folder.display()))
}

fn write_pages(command: &clap::Command, name: &str, folder: &Path) -> std::io::Result<usize> {
    let page = clap_mangen::Man::new(command.clone()).title(name);
    let mut text = Vec::new();
    page.render(&mut text)?;
    fs::write(folder.join(format!("{name}.1")), text)?;
    let mut pages = 1;
    for inner in command.get_subcommands().filter(|inner| !inner.is_hide_set() && inner.get_name() != "help") {
        pages += write_pages(inner, &format!("{name}-{}", inner.get_name()), folder)?;
    }
    Ok(pages)
}
