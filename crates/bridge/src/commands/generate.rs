//! `neurobridge schema`, `completions`, `man`: what is made out of the program itself.

use clap::CommandFactory;
use clap_complete::Shell;

use super::print;
use crate::{
    cli::{Cli, CompletionsFlags},
    config,
    exit::{Exit, Failure, OrExit},
};

/// Prints the JSON Schema of the configuration.
pub(super) fn schema() -> Result<Exit, Failure> {
    let text = serde_json::to_string_pretty(&config::schema()).or_exit(Exit::Usage)?;
    print(text + "\n")?;
    Ok(Exit::Ok)
}

/// Prints completions for a shell; or what they ask for.
pub(super) fn completions(flags: &CompletionsFlags) -> Result<Exit, Failure> {
    let Some(shell) = flags.shell else {
        // In the middle of a line is no place for errors: without a configuration there is nothing to complete.
        let loaded = config::load(None).ok();
        let names = loaded
            .into_iter()
            .flat_map(|loaded| loaded.config.sinks.into_keys());
        print(names.map(|name| name + "\n").collect::<String>())?;
        return Ok(Exit::Ok);
    };
    print(completions_for(shell))?;
    Ok(Exit::Ok)
}

/// The generated completions know flags and commands. After `--sink` they ask the program itself, as names of sinks stand in
/// the configuration.
fn completions_for(shell: Shell) -> String {
    const ASK: &str = "neurobridge completions --sinks 2>/dev/null";
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "neurobridge", &mut text);
    let text = String::from_utf8_lossy(&text).into_owned();
    match shell {
        Shell::Bash => text.replace(
            "--sink)\n                    COMPREPLY=($(compgen -f \"${cur}\"))",
            &format!("--sink)\n                    COMPREPLY=($(compgen -W \"$({ASK})\" -- \"${{cur}}\"))"),
        ),
        Shell::Zsh => {
            let lines = text.lines().map(|line| match line.contains("'--sink=[") {
                true => line.replace(":NAME:_default", &format!(":NAME:($({ASK}))")) + "\n",
                false => format!("{line}\n"),
            });
            lines.collect()
        }
        Shell::Fish => {
            let lines = text.lines().map(|line| match line.contains(" -l sink ") {
                true => format!("{line} -f -a \"({ASK})\"\n"),
                false => format!("{line}\n"),
            });
            lines.collect()
        }
        _ => text,
    }
}

/// When the command line last changed: a page has a date.
const PAGE_DATE: &str = "2026-11-25";

/// Prints the manual page: all commands on one page, as a reader searches one.
pub(super) fn manual() -> Result<Exit, Failure> {
    let mut text = Vec::new();
    let mut command = Cli::command();
    command.build();
    clap_mangen::Man::new(command.clone())
        .date(PAGE_DATE)
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
    print(tidy(&String::from_utf8_lossy(&text)))?;
    Ok(Exit::Ok)
}

/// A page without the line breaks that stand beside empty lines, of which mandoc warns.
fn tidy(page: &str) -> String {
    let lines: Vec<&str> = page.lines().collect();
    let mut tidy = String::with_capacity(page.len());
    for (place, line) in lines.iter().enumerate() {
        let is_space = |place: Option<usize>| place.and_then(|place| lines.get(place)) == Some(&".sp");
        if *line == ".br" && (is_space(place.checked_sub(1)) || is_space(place.checked_add(1))) {
            continue;
        }
        tidy.push_str(line);
        tidy.push('\n');
    }
    tidy
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_sink_the_program_is_asked() {
        // For `check`, `tail` and `spool replay`.
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let text = completions_for(shell);
            assert_eq!(text.matches("completions --sinks").count(), 3, "{shell}: {text}");
        }
    }
}
