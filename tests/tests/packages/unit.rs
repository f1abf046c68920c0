//! The parts of a systemd unit that can be tested without systemd: command line, user, folder and environment.

use std::fs;
use std::path::Path;
use std::process::Command;

/// The lines of the section `[Service]`.
pub(crate) struct Unit(Vec<(String, String)>);

impl Unit {
    pub(crate) fn read(path: &Path) -> Self {
        let text = fs::read_to_string(path).unwrap();
        let lines = text.lines().map(str::trim);
        let service = lines
            .skip_while(|line| *line != "[Service]")
            .skip(1)
            .take_while(|line| !line.starts_with('['))
            .filter(|line| !line.is_empty() && !line.starts_with('#'));
        let pair = |line: &str| {
            let (key, value) = line.split_once('=').unwrap_or_else(|| panic!("{line}"));
            (key.to_owned(), value.to_owned())
        };
        Self(service.map(pair).collect())
    }

    /// Returns the only value of a key.
    pub(crate) fn get(&self, key: &str) -> &str {
        let mut values = self.0.iter().filter(|(found, _)| found == key);
        let (_, value) = values.next().unwrap_or_else(|| panic!("the unit has no {key}"));
        assert!(values.next().is_none(), "the unit has {key} twice");
        value
    }

    /// Returns the command that systemd would start: with this user, without capabilities, in this folder, with the
    /// variables of the environment file.
    pub(crate) fn command(&self) -> Command {
        let (user, group) = (self.get("User"), self.get("Group"));
        assert_eq!(self.get("CapabilityBoundingSet"), "");
        assert_eq!(self.get("NoNewPrivileges"), "yes");
        let mut command = Command::new("setpriv");
        command
            .args(["--reuid", user, "--regid", group, "--init-groups"])
            .args(["--no-new-privs", "--bounding-set=-all", "--inh-caps=-all"])
            .args([
                "sh",
                "-c",
                &format!("umask {}; exec \"$@\"", self.get("UMask")),
                "sh",
            ])
            .args(self.get("ExecStart").split_whitespace())
            .current_dir(self.get("WorkingDirectory"))
            .env_clear();
        let file = self.get("EnvironmentFile").trim_start_matches('-');
        for line in fs::read_to_string(file).unwrap_or_default().lines() {
            let (name, value) = line.split_once('=').unwrap();
            command.env(name, value);
        }
        command
    }
}
