//! A real Prometheus with the shipped configuration, which observes real bridges with faults: every alert fires, and
//! every query of the dashboard has data.

use std::fs;
use std::net::TcpListener;
use std::process::Command;
use std::thread;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use neurobridge_tests::bridge::Bridge;
use neurobridge_tests::paths::Scratch;
use neurobridge_tests::platform::Platform;
use neurobridge_tests::poll::wait_for;
use neurobridge_tests::ports::free_ports;
use neurobridge_tests::process::Process;
use neurobridge_tests::program::neurobridge;
use neurobridge_tests::prometheus::{Alert, Prometheus, PrometheusInstallation};
use tokio_tungstenite::tungstenite::{
    self, Message,
    handshake::server::{Request, Response},
};

use super::support::{Dashboard, rules, write_config};

/// The time limit of each wait: far longer than the whole test takes on two busy cores.
const SOON: Duration = Duration::from_secs(120);

#[test]
fn every_fault_fires_its_alert() {
    let Some(installation) = PrometheusInstallation::for_test() else {
        return;
    };
    let calm_dir = Scratch::new("stack-calm").unwrap();
    let mut calm_platform = Platform::start(&calm_dir, &["--rate", "50"]).unwrap();
    // A disk spool, which has sync metrics.
    let on_disk = source(&calm_platform.url()) + "[spool]\ntype = \"disk\"\n";
    let mut calm = Bridge::start(&calm_dir, &on_disk).unwrap();

    let refused_dir = Scratch::new("stack-refused").unwrap();
    let refusing = Platform::start(&refused_dir, &["--token", "right"]).unwrap();
    let refused_config = source(&refusing.url()) + &refused_credential(&refusing);
    let refused = Bridge::start(&refused_dir, &refused_config).unwrap();

    let troubled_dir = Scratch::new("stack-troubled").unwrap();
    let faults = [
        "--rate",
        "200",
        "--fault",
        "bad-json,every=2s",
        "--fault",
        "cut,every=3s",
    ];
    let unruly = Platform::start(&troubled_dir, &faults).unwrap();
    // Every write to standard error fails.
    let stderr = fs::File::options().write(true).open("/dev/full").unwrap();
    let troubled =
        Bridge::start_with_stderr(&troubled_dir, &faulty_config(&unruly.url()), stderr.into()).unwrap();

    let skewed_dir = Scratch::new("stack-skewed").unwrap();
    let skewed = Bridge::start(&skewed_dir, &source(&platform_with_a_late_clock())).unwrap();

    // Adds an error to the file of this bridge; the reload must fail.
    let file = skewed_dir.join("neurobridge.toml");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replace("token = ", "tokken = ")).unwrap();
    let mut reload = Command::new(neurobridge());
    assert!(
        !reload
            .arg("reload")
            .arg("-c")
            .arg(&file)
            .status()
            .unwrap()
            .success()
    );

    let blocked_dir = Scratch::new("stack-blocked").unwrap();
    let fast = Platform::start(&blocked_dir, &["--rate", "2000"]).unwrap();
    let blocking = faulty_config(&fast.url()).replace("drop_oldest", "block");
    let blocked = Bridge::start(&blocked_dir, &blocking).unwrap();

    let member_dir = Scratch::new("stack-member").unwrap();
    let member = Bridge::start(&member_dir, &member_config(&fast.url())).unwrap();

    let dir = Scratch::new("stack-prometheus").unwrap();
    let bridges =
        [&calm, &refused, &troubled, &skewed, &blocked, &member].map(|bridge| bridge.address().to_owned());
    write_config(&dir, &bridges);
    let prometheus = Prometheus::start(&installation, &dir.join("prometheus.yml"), &dir).unwrap();
    let [
        calm_address,
        refused_address,
        troubled_address,
        skewed_address,
        blocked_address,
        member_address,
    ] = bridges;

    let mut seen = Seen::default();
    for (alert, instance) in [
        ("NeurobridgeTokenRefused", &refused_address),
        ("NeurobridgeTokenNotRenewed", &refused_address),
        ("NeurobridgeEventsDropped", &troubled_address),
        ("NeurobridgeSinkDown", &troubled_address),
        ("NeurobridgeDeliveryLate", &troubled_address),
        ("NeurobridgeDeadLetters", &troubled_address),
        ("NeurobridgeGap", &troubled_address),
        ("NeurobridgeSpoolFilling", &troubled_address),
        ("NeurobridgeLogLinesDropped", &troubled_address),
        ("NeurobridgeClockOff", &skewed_address),
        ("NeurobridgeReloadFailed", &skewed_address),
        ("NeurobridgeSpoolFull", &blocked_address),
        ("NeurobridgeNoLeader", &member_address),
        ("NeurobridgeMemberCannotLead", &member_address),
        ("NeurobridgeFollowerBehind", &member_address),
    ] {
        seen.wait(&prometheus, alert, instance);
    }
    every_panel_has_data(&prometheus);
    assert_states_of_gaps(&prometheus);
    assert_no_alerts(&calm_address, &prometheus);

    calm_platform.process().kill().unwrap();
    seen.wait(&prometheus, "NeurobridgeNoOpenConnection", &calm_address);
    seen.wait(&prometheus, "NeurobridgeNoEvents", &calm_address);
    calm.process().terminate(SOON).unwrap();
    seen.wait(&prometheus, "NeurobridgeDown", &calm_address);

    fs::remove_file(calm.data_dir().join("spool/cursors/events.cursor")).unwrap();
    let mut again = Command::new(neurobridge());
    again.args(["run", "-c"]).arg(calm_dir.join("neurobridge.toml"));
    let _again = Process::spawn("bridge", &mut again, &calm_dir.join("again.log")).unwrap();
    seen.wait(&prometheus, "NeurobridgeCursorDamaged", &calm_address);
    for annotation in ["Failures", "Recoveries", "Starts and stops"] {
        has_data(&prometheus, annotation);
    }

    // Six alerts are covered only by the unit tests of the rules. A gap counts as not filled after 15 minutes. A
    // spool retries when the process has no free file descriptors, but such a process cannot answer Prometheus
    // either. Three replacements of a client take four minutes. And only a broker can reject events, fence a sink,
    // lose a topic or store the leases of two leaders.
    seen.0.push("NeurobridgeGapNotFilled".to_owned());
    seen.0.push("NeurobridgeSpoolRetrying".to_owned());
    seen.0.push("NeurobridgeClientReplaced".to_owned());
    seen.0.push("NeurobridgeSinkStopped".to_owned());
    seen.0.push("NeurobridgeDestinationRecreated".to_owned());
    seen.0.push("NeurobridgeSeveralLeaders".to_owned());
    let all = rules().into_iter().map(|rule| rule.alert).collect::<Vec<_>>();
    for alert in &all {
        assert!(seen.0.contains(alert), "no fault fires the alert {alert}");
    }
}

fn source(url: &str) -> String {
    format!("[sources.main]\nurl = \"{url}\"\ntoken = \"t\"\n")
}

/// Returns a source whose tokens cannot be created.
fn refused_credential(platform: &Platform) -> String {
    format!(
        "[sources.created]\nurl = \"{}\"\n[sources.created.token_from]\nurl = \"http://{}\"\ncredential = \"wrong\"\n",
        platform.url(),
        platform.address()
    )
}

/// Returns a sink without a server, a spool that fills up soon, and a short delay after a disconnect.
fn faulty_config(url: &str) -> String {
    let [port] = free_ports().unwrap();
    format!(
        "{}[sources.main.backoff]\nmax = \"1s\"\n[spool]\nmax_size = \"2 MiB\"\nwhen_full = \"drop_oldest\"\n\
         [sinks.kafka]\ntype = \"kafka\"\nbootstrap_servers = \"127.0.0.1:{port}\"\n",
        source(url)
    )
}

/// Returns a member of a cluster that reaches neither the engine of the lease nor the server of its sink.
fn member_config(url: &str) -> String {
    let [lease, port] = free_ports().unwrap();
    format!(
        "{}[spool]\ntype = \"disk\"\n[cluster]\nname = \"faces\"\n\
         lease = {{ type = \"nats\", servers = [\"nats://127.0.0.1:{lease}\"], bucket = \"leases\" }}\n\
         [sinks.kafka]\ntype = \"kafka\"\nbootstrap_servers = \"127.0.0.1:{port}\"\n",
        source(url)
    )
}

/// Starts a platform that authenticates clients, sends no events, and has a clock that is an hour slow. Returns the
/// URL of the platform.
fn platform_with_a_late_clock() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("ws://{}/", listener.local_addr().unwrap());
    thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            // The bridge closes the connection at the end of the test.
            let _ = serve(stream);
        }
    });
    url
}

#[allow(clippy::result_large_err, reason = "the callback's type is tungstenite's")]
fn serve(stream: std::net::TcpStream) -> Result<(), Box<dyn std::error::Error>> {
    let then = Timestamp::now() - SignedDuration::from_hours(1);
    let date = then.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
    let dated = move |_: &Request, mut response: Response| {
        response.headers_mut().insert("date", date.parse().unwrap());
        Ok(response)
    };
    let mut socket = tungstenite::accept_hdr(stream, dated)?;
    socket.read()?;
    socket.send(Message::text(r#"{"auth":"ok"}"#))?;
    loop {
        if socket.read()?.is_text() {
            socket.send(Message::text(r#"{"PING":"PONG"}"#))?;
        }
    }
}

/// The alerts that fired.
#[derive(Default)]
struct Seen(Vec<String>);

impl Seen {
    /// Waits for an alert of this instance, and checks that Prometheus could expand the templates in the annotations.
    fn wait(&mut self, prometheus: &Prometheus, name: &str, instance: &str) {
        let mut last = Vec::new();
        let alert = wait_for(&format!("{name} of {instance}"), SOON, || {
            last = prometheus.alerts()?;
            Ok(last.iter().find(|alert| alert.is(name, instance)).cloned())
        });
        let alert = alert.unwrap_or_else(|error| panic!("{error:#}: {last:#?}"));
        for (which, text) in &alert.annotations {
            let is_rendered = !["{{", "<error", "<no value>", "%!"]
                .iter()
                .any(|sign| text.contains(sign));
            assert!(is_rendered, "{which} of {name}: {text}");
        }
        self.0.push(name.to_owned());
    }
}

/// Waits until no alert fires for the instance. The alert of a full spool is excluded: it extrapolates a few seconds of
/// data, which needs five minutes to be reliable.
fn assert_no_alerts(instance: &str, prometheus: &Prometheus) {
    let is_about = |alert: &Alert| {
        alert
            .labels
            .get("instance")
            .is_some_and(|found| found == instance)
            && !alert.is("NeurobridgeSpoolFilling", instance)
    };
    wait_for("no alert for the bridge without faults", SOON, || {
        let alerts = prometheus.alerts()?;
        Ok((!alerts.iter().any(is_about)).then_some(()))
    })
    .unwrap();
}

/// Replaces Grafana's variables in a query.
fn filled(query: &str) -> String {
    query
        .replace("$__rate_interval", "15s")
        .replace("$__range", "15m")
        .replace("$instance", ".*")
        .replace("$source", ".*")
        .replace("$sink", ".*")
}

fn every_panel_has_data(prometheus: &Prometheus) {
    let dashboard = Dashboard::read();
    let panels = dashboard.panels().map(|panel| panel["title"].as_str().unwrap());
    for title in panels {
        has_data(prometheus, title);
    }
    for (variable, selector, label) in dashboard.variables() {
        let values = prometheus.label_values(&filled(&selector), &label).unwrap();
        assert!(!values.is_empty(), "${variable} has no values");
    }
}

/// Checks that the panel of connections shows a source that is connected, and an unrecovered gap.
fn assert_states_of_gaps(prometheus: &Prometheus) {
    let (_, query) = Dashboard::read()
        .queries()
        .into_iter()
        .find(|(place, _)| place == "Connections and gaps")
        .unwrap();
    let query = filled(&query);
    for (state, value) in [("connected", 0.0), ("unrecovered", 5.0)] {
        wait_for(&format!("the state {state}"), SOON, || {
            Ok(prometheus.query(&query)?.contains(&value).then_some(()))
        })
        .unwrap();
    }
}

/// Waits until every query of a panel or annotation has data.
fn has_data(prometheus: &Prometheus, title: &str) {
    let queries = Dashboard::read().queries();
    let mut count = 0;
    for (_, query) in queries.iter().filter(|(place, _)| place == title) {
        let query = filled(query);
        wait_for(&format!("data for {title:?}: {query}"), SOON, || {
            Ok((!prometheus.query(&query)?.is_empty()).then_some(()))
        })
        .unwrap();
        count += 1;
    }
    assert!(count > 0, "{title} has no query");
}
