//! `neurobridge reload`: the running bridge loads its configuration again.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
};

use super::print;
use crate::{
    cli::ConfigFlag,
    config::{self, Config, DEFAULT_PATHS, PREFIX},
    control::{Answer, Client, Request},
    exit::{Exit, Failure, OrExit},
    logging, terminal,
};

/// Sends the request, and prints the answer.
///
/// # Errors
/// Fails if no bridge runs. Configuration errors are printed as `check` prints them.
pub(super) async fn run(flags: &ConfigFlag) -> Result<Exit, Failure> {
    let loaded = config::load(flags.config.as_deref());
    let data_dir = match &loaded {
        Ok(loaded) => loaded.config.data_dir.clone(),
        // The request is sent in spite of the error, so that the status of the bridge shows the failed reload.
        Err(_) => data_dir_of(flags.config.as_deref()),
    };
    let stderr = io::stderr();
    let request = Request::Reload {
        colours: terminal::colours(&stderr),
        width: terminal::width_of(&stderr),
    };
    let answer = Client::request(&data_dir, request).await;
    if let Err(report) = loaded
        && !matches!(&answer, Ok(Some(answer)) if answer.exit != Exit::Ok.code())
    {
        return Err(report).or_exit(Exit::Config);
    }
    match answer.or_exit(Exit::Unavailable)? {
        Some(Answer { exit: 0, text }) => print(text).map(|()| Exit::Ok),
        Some(Answer { exit, text }) => {
            logging::write_last(format!("{}\n", text.trim_end()));
            let known = Exit::ALL.into_iter().find(|known| known.code() == exit);
            Ok(known.unwrap_or(Exit::Unavailable))
        }
        None => Err(Failure::message(
            Exit::Unavailable,
            format!(
                "no bridge runs with the data_dir {}; start the bridge, or, if data_dir was changed in the \
                 configuration, restart the bridge",
                data_dir.display()
            ),
        )),
    }
}

/// Returns the data folder that a configuration with errors names, or the default one.
fn data_dir_of(named: Option<&Path>) -> PathBuf {
    if let Some(path) = env::var_os(format!("{PREFIX}DATA_DIR")) {
        return path.into();
    }
    let variable = env::var_os("NEUROBRIDGE_CONFIG").filter(|path| !path.is_empty());
    let named = named.or(variable.as_deref().map(Path::new));
    let paths = DEFAULT_PATHS.iter().map(Path::new).filter(|_| named.is_none());
    let text = named
        .into_iter()
        .chain(paths)
        .find_map(|path| fs::read_to_string(path).ok());
    text.as_deref()
        .and_then(data_dir_in)
        .unwrap_or_else(|| Config::default().data_dir)
}

/// Returns the data folder in the text of a configuration file, which may have errors in other lines.
fn data_dir_in(text: &str) -> Option<PathBuf> {
    let mut lines = text
        .lines()
        .map(str::trim)
        .take_while(|line| !line.starts_with('['));
    let line = lines.find(|line| {
        line.strip_prefix("data_dir")
            .is_some_and(|rest| rest.trim_start().starts_with('='))
    })?;
    let table: toml::Table = toml::from_str(line).ok()?;
    Some(table.get("data_dir")?.as_str()?.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_dir_is_found_in_a_file_with_errors() {
        for (text, expected) in [
            (
                "wrong = \ndata_dir = \"/var/lib/x\" # comment\n",
                Some("/var/lib/x"),
            ),
            ("data_dir='x'", Some("x")),
            ("data_dirs = \"x\"", None),
            ("[sinks.a]\ndata_dir = \"x\"", None),
            ("data_dir = 5", None),
        ] {
            assert_eq!(data_dir_in(text), expected.map(PathBuf::from), "{text}");
        }
    }
}
