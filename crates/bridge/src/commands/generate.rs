//! `neurobridge schema`, `completions`: output generated from the program's own definitions.

use clap::{CommandFactory, ValueEnum};
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

/// Prints the completions for a shell, or with `--sinks` the sink names for them.
pub(super) fn completions(flags: &CompletionsFlags) -> Result<Exit, Failure> {
    if flags.sinks {
        // A completion must not print errors: without a valid configuration there are no candidates.
        let loaded = config::load(None).ok();
        let names = loaded
            .into_iter()
            .flat_map(|loaded| loaded.config.sinks.into_keys());
        print(names.map(|name| name + "\n").collect::<String>())?;
        return Ok(Exit::Ok);
    }
    let shell = flags.shell.or_else(Shell::from_env).ok_or_else(|| {
        let shells: Vec<String> = Shell::value_variants().iter().map(Shell::to_string).collect();
        let message = format!("unknown shell in $SHELL, expected one of {}", shells.join(", "));
        Failure::message(Exit::Usage, message)
    })?;
    print(completions_for(shell))?;
    Ok(Exit::Ok)
}

/// Returns the completions for flags and commands. After `--sink` they run the program, because the names of sinks come from
/// the configuration.
fn completions_for(shell: Shell) -> String {
    const LIST_SINKS: &str = "neurobridge completions --sinks 2>/dev/null";
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "neurobridge", &mut text);
    let text = String::from_utf8_lossy(&text).into_owned();
    match shell {
        Shell::Bash => text.replace(
            "--sink)\n                    COMPREPLY=($(compgen -f \"${cur}\"))",
            &format!(
                "--sink)\n                    COMPREPLY=($(compgen -W \"$({LIST_SINKS})\" -- \"${{cur}}\"))"
            ),
        ),
        Shell::Zsh => {
            let lines = text.lines().map(|line| match line.contains("'--sink=[") {
                true => line.replace(":NAME:_default", &format!(":NAME:($({LIST_SINKS}))")) + "\n",
                false => format!("{line}\n"),
            });
            lines.collect()
        }
        Shell::Fish => {
            let lines = text.lines().map(|line| match line.contains(" -l sink ") {
                true => format!("{line} -f -a \"({LIST_SINKS})\"\n"),
                false => format!("{line}\n"),
            });
            lines.collect()
        }
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn completion_scripts_run_the_program_for_sink_names() {
        // For `check`, `tail`, `spool replay` and two commands of `dead-letters`.
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let text = completions_for(shell);
            assert_eq!(text.matches("completions --sinks").count(), 5, "{shell}: {text}");
        }
    }
}
