//! `neurobridge schema`, `completions`, `man`: output generated from the program's own definitions.

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

/// Prints completions for a shell, or the names that the completions request.
pub(super) fn completions(flags: &CompletionsFlags) -> Result<Exit, Failure> {
    let Some(shell) = flags.shell else {
        // A completion must not print errors: without a valid configuration there are no candidates.
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

/// Returns the completions for flags and commands. After `--sink` they run the program, because the names of sinks come from
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

/// The date of the manual page: the last change of the command line.
const PAGE_DATE: &str = "2026-11-25";

/// Prints the manual page, with all commands on one page so that it can be searched.
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

/// Removes line breaks next to empty lines, about which mandoc warns.
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
    fn sink_completion_runs_the_program() {
        // For `check`, `tail` and `spool replay`.
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let text = completions_for(shell);
            assert_eq!(text.matches("completions --sinks").count(), 3, "{shell}: {text}");
        }
    }
}
