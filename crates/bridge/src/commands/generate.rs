//! `neurobridge schema`, `completions`, `man`: what is made out of the program itself.

use clap::CommandFactory;

use super::print;
use crate::{
    cli::Cli,
    config,
    exit::{Exit, Failure, OrExit},
};

/// Prints the JSON Schema of the configuration.
pub(super) fn schema() -> Result<Exit, Failure> {
    let text = serde_json::to_string_pretty(&config::schema()).or_exit(Exit::Usage)?;
    print(text + "\n")?;
    Ok(Exit::Ok)
}

/// Prints completions for a shell.
pub(super) fn completions(shell: clap_complete::Shell) -> Result<Exit, Failure> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "neurobridge", &mut text);
    print(text)?;
    Ok(Exit::Ok)
}

/// Prints the manual page: all commands on one page, as a reader searches one.
pub(super) fn manual() -> Result<Exit, Failure> {
    let mut text = Vec::new();
    let mut command = Cli::command();
    command.build();
    clap_mangen::Man::new(command.clone())
        .render(&mut text)
        .or_exit(Exit::Disk)?;
    for subcommand in command
        .get_subcommands()
        .filter(|subcommand| subcommand.get_name() != "help")
    {
        let name = format!("neurobridge {}", subcommand.get_name());
        let man = clap_mangen::Man::new(subcommand.clone()).title(&name);
        man.render_name_section(&mut text).or_exit(Exit::Disk)?;
        man.render_synopsis_section(&mut text).or_exit(Exit::Disk)?;
        man.render_description_section(&mut text).or_exit(Exit::Disk)?;
        man.render_options_section(&mut text).or_exit(Exit::Disk)?;
    }
    print(text)?;
    Ok(Exit::Ok)
}
