//! The environment in which the documents' commands are run: a folder with the documented configuration, a platform and
//! a broker.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::Duration;

use neurobridge_tests::http;
use neurobridge_tests::kafka::admin::KafkaAdmin;
use neurobridge_tests::paths::{Scratch, workspace_root};
use neurobridge_tests::platform::Platform;
use neurobridge_tests::poll::wait_for;
use neurobridge_tests::ports::free_ports;
use neurobridge_tests::process::Process;
use neurobridge_tests::program::neurobridge;
use neurobridge_tests::status::Status;

/// The time limit of each wait: far longer than any wait of these tests takes.
const SOON: Duration = Duration::from_secs(120);

/// The folder of a new user, with the platform and the broker that the documents assume.
pub(crate) struct Site {
    dir: Scratch,
    platform: Platform,
    page: String,
    simulator: String,
    variables: Vec<(&'static str, String)>,
    running: Vec<Process>,
    bridge: Option<Process>,
}

impl Site {
    /// Creates the folder with the first configuration of the README as `neurobridge.toml`; only environment variables
    /// adapt this configuration to this machine.
    pub(crate) fn new(bootstrap: &str) -> Self {
        let dir = Scratch::new("documents").unwrap();
        let [page, simulator] = free_ports().unwrap();
        let topic = format!("documents-{}", std::process::id());
        KafkaAdmin::new(bootstrap)
            .unwrap()
            .create_topic(&topic, 3, &[])
            .unwrap();
        let platform = Platform::start(&dir, &["--token", "the-token", "--rate", "100"]).unwrap();
        fs::write(dir.join("neurobridge.toml"), first_configuration()).unwrap();
        fs::write(dir.join("token"), "the-token\n").unwrap();
        fs::create_dir(dir.join("bin")).unwrap();
        fs::create_dir(dir.join("empty")).unwrap();
        std::os::unix::fs::symlink(neurobridge(), dir.join("bin/neurobridge")).unwrap();
        let page = format!("127.0.0.1:{page}");
        let variables = vec![
            ("NEUROBRIDGE__SOURCES__MAIN__URL", platform.url()),
            (
                "NEUROBRIDGE__SOURCES__MAIN__TOKEN_FILE",
                dir.join("token").display().to_string(),
            ),
            (
                "NEUROBRIDGE__SINKS__KAFKA__BOOTSTRAP_SERVERS",
                bootstrap.to_owned(),
            ),
            ("NEUROBRIDGE__SINKS__KAFKA__TOPIC", topic),
            ("NEUROBRIDGE__SPOOL__TYPE", "disk".to_owned()),
            ("NEUROBRIDGE__HTTP__LISTEN", page.clone()),
        ];
        Self {
            dir,
            platform,
            page,
            simulator: format!("127.0.0.1:{simulator}"),
            variables,
            running: Vec::new(),
            bridge: None,
        }
    }

    fn shell(&self, text: &str) -> Command {
        // The documents' addresses assume a machine without other servers, so they are replaced.
        let text = text
            .replace("127.0.0.1:9797", &self.page)
            .replace("127.0.0.1:8080", &self.simulator);
        let path = std::env::var("PATH").unwrap_or_default();
        let mut command = Command::new("sh");
        command
            .args(["-c", &text])
            .env("PATH", format!("{}:{path}", self.dir.join("bin").display()));
        if text.contains("NEUROBRIDGE__SOURCES__MAIN__TOKEN=") {
            // The command sets its own variables and needs no configuration file, so it runs in an empty folder.
            command.current_dir(self.dir.join("empty"));
        } else {
            let variables = self.variables.iter().map(|(name, value)| (name, value));
            command.current_dir(self.dir.path()).envs(variables);
        }
        command
    }

    /// Runs a command and checks that it exits with success.
    pub(crate) fn once(&self, text: &str) -> Output {
        let output = self.shell(text).output().unwrap();
        assert!(output.status.success(), "{text}: {output:?}");
        output
    }

    /// Starts a command that runs while later commands are executed.
    fn start(&self, text: &str) -> Process {
        let log = self.dir.join("commands.log");
        let text = format!("exec {}", text.trim_end_matches('&').trim_end());
        Process::spawn("a documented command", &mut self.shell(&text), &log).unwrap()
    }

    /// Starts a simulator, which runs until the end, and waits until it accepts connections.
    pub(crate) fn simulator(&mut self, text: &str) {
        let simulator = self.start(text);
        self.running.push(simulator);
        wait_for("the simulator", SOON, || {
            Ok(std::net::TcpStream::connect(&self.simulator).ok())
        })
        .unwrap();
    }

    /// Starts a bridge instead of the previous one and waits until it has delivered events to its sink.
    pub(crate) fn bridge(&mut self, text: &str) {
        self.stop_bridge();
        let mut bridge = self.start(text);
        let page = self.page.clone();
        wait_for("events in the sink", SOON, || {
            if let Some(status) = bridge.exit_status()? {
                anyhow::bail!("the bridge exited with {status}: {}", bridge.log_tail());
            }
            // The ledger is not sufficient, because its values continue after a restart.
            if http::get(&page, "/readyz").is_err() {
                return Ok(None);
            }
            let status = http::get(&page, "/status")?;
            let status = Status::read(&status)?;
            let mut sinks = status.sinks.values();
            Ok(sinks.all(|sink| sink.ledger.delivered > 10).then_some(()))
        })
        .unwrap_or_else(|error| panic!("{error:#}: {}", bridge.log_tail()));
        self.bridge = Some(bridge);
    }

    fn stop_bridge(&mut self) {
        if let Some(bridge) = self.bridge.take() {
            end(bridge);
        }
    }

    /// Stops all processes and checks that each exits with success.
    pub(crate) fn stop(mut self) {
        self.stop_bridge();
        self.running.drain(..).for_each(end);
        self.platform.stop().unwrap();
    }
}

fn end(mut process: Process) {
    let status = process.terminate(SOON).unwrap();
    assert!(status.success(), "{status}: {}", process.log_tail());
}

/// Returns the first configuration block of the README.
fn first_configuration() -> String {
    let readme: PathBuf = workspace_root().join("README.md");
    let readme = fs::read_to_string(readme).unwrap();
    let (_, block) = readme
        .split_once("```toml\n# neurobridge.toml\n")
        .expect("the README has no configuration");
    block.split_once("```").unwrap().0.to_owned()
}
