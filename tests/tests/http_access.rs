//! The password and the certificate of the HTTP server, with the clients that operators use: curl, Prometheus, a browser and
//! the bridge's own health check.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::Duration;

use neurobridge_tests::bridge::Bridge;
use neurobridge_tests::browser::{self, Browser};
use neurobridge_tests::certificates::Certificates;
use neurobridge_tests::http;
use neurobridge_tests::paths::{Scratch, workspace_root};
use neurobridge_tests::poll::{wait_for, wait_until};
use neurobridge_tests::ports::free_ports;
use neurobridge_tests::process::Process;
use neurobridge_tests::program::neurobridge;
use neurobridge_tests::prometheus::{Prometheus, PrometheusInstallation};

const SOON: Duration = Duration::from_secs(60);
const PASSWORD: &str = "correct horse";

const SOURCE: &str = "[sources.main]\nurl = \"ws://127.0.0.1:1/\"\ntoken = \"t\"\n";

/// A bridge with a password and a certificate.
struct Secured {
    config: PathBuf,
    address: String,
    ca: PathBuf,
    password_file: PathBuf,
    process: Process,
}

impl Secured {
    fn start(dir: &Scratch) -> Self {
        let certificates = Certificates::generate(&dir.join("tls")).unwrap();
        let [port] = free_ports().unwrap();
        let address = format!("localhost:{port}");
        let password_file = dir.join("password");
        fs::write(&password_file, format!("{PASSWORD}\n")).unwrap();
        let config = dir.join("neurobridge.toml");
        let text = format!(
            "data_dir = {:?}\n{SOURCE}[http]\nlisten = \"127.0.0.1:{port}\"\npassword_file = {password_file:?}\n\
             tls = {{ cert_file = {:?}, key_file = {:?} }}\n",
            dir.join("data"),
            certificates.server_cert,
            certificates.server_key
        );
        fs::write(&config, text).unwrap();
        let mut command = Command::new(neurobridge());
        command.args(["run", "-c"]).arg(&config).env_remove("RUST_LOG");
        let mut process = Process::spawn("bridge", &mut command, &dir.join("bridge.log")).unwrap();
        wait_for("the bridge", SOON, || {
            if let Some(status) = process.exit_status()? {
                anyhow::bail!("the bridge exited with {status}:\n{}", process.log_tail());
            }
            let healthy = neurobridge_with(&["healthcheck", "-c", config.to_str().unwrap()])
                .status
                .success();
            Ok(healthy.then_some(()))
        })
        .unwrap();
        Self {
            config,
            address,
            ca: certificates.ca,
            password_file,
            process,
        }
    }

    /// Requests a path with curl, which verifies the certificate, and returns the status code.
    fn curl(&self, path: &str, credentials: Option<&str>) -> String {
        let ca = ["--cacert", self.ca.to_str().unwrap()];
        curl(&format!("https://{}{path}", self.address), &ca, credentials)
    }
}

fn neurobridge_with(args: &[&str]) -> Output {
    let mut command = Command::new(neurobridge());
    command.args(args).env_remove("RUST_LOG");
    command.output().unwrap()
}

/// Returns the status code that curl receives, or `failed` with its message.
fn curl(url: &str, options: &[&str], credentials: Option<&str>) -> String {
    let mut command = Command::new("curl");
    command.args(["-sS", "-m", "30", "-o", "/dev/null", "-w", "%{http_code}"]);
    command.args(options);
    if let Some(credentials) = credentials {
        command.args(["-u", credentials]);
    }
    let output = command.arg(url).output().expect("curl has to be installed");
    if output.status.success() {
        return String::from_utf8_lossy(&output.stdout).into_owned();
    }
    format!("failed: {}", String::from_utf8_lossy(&output.stderr))
}

#[test]
fn password_and_certificate_protect_all_but_health_checks() {
    let dir = Scratch::new("access-tls").unwrap();
    let bridge = Secured::start(&dir);
    let right = format!("neurobridge:{PASSWORD}");
    for path in ["/livez", "/readyz"] {
        let code = bridge.curl(path, None);
        assert!(["200", "503"].contains(&code.as_str()), "{path}: {code}");
    }
    for path in [
        "/",
        "/page.js",
        "/runbooks",
        "/status",
        "/metrics",
        "/status/stream",
    ] {
        assert_eq!(bridge.curl(path, None), "401", "{path}");
        assert_eq!(bridge.curl(path, Some("neurobridge:wrong")), "401", "{path}");
    }
    for path in ["/", "/page.js", "/runbooks", "/status", "/metrics"] {
        assert_eq!(bridge.curl(path, Some(&right)), "200", "{path}");
    }
    assert!(
        http::get(&bridge.address, "/livez").is_err(),
        "plain HTTP must fail"
    );
    let untrusted = curl(&format!("https://{}/livez", bridge.address), &[], None);
    assert!(untrusted.starts_with("failed: "), "{untrusted}");

    let url = format!("https://{}", bridge.address);
    let by_url = neurobridge_with(&["healthcheck", "--url", &url]);
    assert!(by_url.status.success(), "{by_url:?}");
    let check = neurobridge_with(&["check", "-c", bridge.config.to_str().unwrap()]);
    let shown = String::from_utf8_lossy(&check.stdout);
    assert!(
        shown.contains("https://127.0.0.1:")
            && shown.contains("with a password")
            && !shown.contains(PASSWORD),
        "{shown}"
    );
    let log = bridge.process.logged().unwrap();
    assert!(
        log.contains("wrong user or password")
            && !log.contains(PASSWORD)
            && !log.contains("neurobridge:wrong"),
        "{log}"
    );
}

#[test]
fn prometheus_scrapes_with_the_documented_job() {
    let Some(installation) = PrometheusInstallation::for_test() else {
        return;
    };
    let dir = Scratch::new("access-prometheus").unwrap();
    let bridge = Secured::start(&dir);
    let documents = fs::read_to_string(workspace_root().join("docs/operations.md")).unwrap();
    let (_, job) = documents.split_once("```yaml\n").unwrap();
    let (job, _) = job.split_once("```").unwrap();
    let replaced = [
        ("bridge.example.com:9797", bridge.address.as_str()),
        (
            "/etc/prometheus/neurobridge_password",
            bridge.password_file.to_str().unwrap(),
        ),
        ("/etc/prometheus/ca.pem", bridge.ca.to_str().unwrap()),
    ];
    let job = replaced.iter().fold(job.to_owned(), |job, (from, to)| {
        assert!(job.contains(from), "{from} is missing in {job}");
        job.replace(from, to)
    });
    let config = dir.join("prometheus.yml");
    fs::write(&config, format!("global:\n  scrape_interval: 1s\n{job}")).unwrap();
    let checked = Command::new(&installation.promtool)
        .args(["check", "config"])
        .arg(&config)
        .output()
        .unwrap();
    assert!(checked.status.success(), "{checked:?}");
    let prometheus = Prometheus::start(&installation, &config, &dir).unwrap();
    wait_until("a scrape", SOON, || {
        prometheus
            .query("neurobridge_build_info or neurobridge_spool_full")
            .is_ok_and(|found| !found.is_empty())
    })
    .unwrap();
}

#[test]
fn guessed_passwords_are_limited() {
    let dir = Scratch::new("access-guess").unwrap();
    let password = [("NEUROBRIDGE__HTTP__PASSWORD", PASSWORD)];
    let open = [password[0], ("NEUROBRIDGE__HTTP__METRICS", "open")];
    let bridge = Bridge::start_with(&dir, SOURCE, &open).unwrap();
    let url = |path: &str| format!("http://{}{path}", bridge.address());
    let right = format!("neurobridge:{PASSWORD}");
    assert_eq!(curl(&url("/status"), &[], Some(&right)), "200");
    let codes: Vec<String> = (0..12)
        .map(|number| curl(&url("/status"), &[], Some(&format!("neurobridge:{number}"))))
        .collect();
    assert_eq!(codes[..10], ["401"; 10]);
    assert_eq!(codes[10..], ["429"; 2]);
    assert_eq!(curl(&url("/status"), &[], Some(&right)), "429");
    // Health and open metrics are not affected.
    assert_eq!(curl(&url("/livez"), &[], None), "200");
    for (reason, expected) in [("unauthorised", 10.0), ("too_many_attempts", 3.0)] {
        let label = format!("reason=\"{reason}\"");
        let counted = bridge
            .metric("neurobridge_http_refusals_total", &[&label])
            .unwrap();
        assert!(counted == expected, "{reason}: {counted}");
    }
}

#[test]
fn page_is_live_with_the_password() {
    let Some(chromium) = browser::for_test() else {
        return;
    };
    let dir = Scratch::new("access-page").unwrap();
    let bridge = Bridge::start_with(&dir, SOURCE, &[("NEUROBRIDGE__HTTP__PASSWORD", "pass-word")]).unwrap();
    let mut browser = Browser::start(&chromium, &dir).unwrap();
    let url = format!("http://neurobridge:pass-word@{}/", bridge.address());
    browser
        .evaluate(&format!("location.href = '{url}'; true"))
        .unwrap();
    wait_until("the page to be live", SOON, || {
        browser
            .evaluate("document.querySelector('#link')?.textContent === 'live'")
            .is_ok_and(|live| live == true)
    })
    .unwrap();
    assert_eq!(browser.errors(), [""; 0]);
}

#[test]
fn unusable_files_and_passwords_are_explained() {
    let dir = Scratch::new("access-errors").unwrap();
    let tls = Certificates::generate(&dir.join("tls")).unwrap();
    let empty = dir.join("empty");
    fs::write(&empty, "\n").unwrap();
    let file = dir.join("neurobridge.toml");
    let encrypted = dir.join("encrypted.key");
    fs::write(
        &encrypted,
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAA==\n-----END ENCRYPTED PRIVATE KEY-----\n",
    )
    .unwrap();
    let files =
        |cert: &PathBuf, key: &PathBuf| format!("tls = {{ cert_file = {cert:?}, key_file = {key:?} }}");
    let missing = dir.join("missing");
    for (keys, sentences) in [
        (
            format!("password_file = {missing:?}"),
            ["\"password_file\": can", "missing"],
        ),
        (
            format!("password_file = {empty:?}"),
            ["found nothing but blanks in", "empty"],
        ),
        (
            "password = \"\"".to_owned(),
            ["http.password", "found an empty password"],
        ),
        (
            format!("password = \"a\"\npassword_file = {empty:?}"),
            ["http.password", "found together with password_file"],
        ),
        ("user = \"a:b\"".to_owned(), ["http.user", "no colon"]),
        (
            files(&missing, &tls.server_key),
            ["cannot read `tls.cert_file`", "missing"],
        ),
        (
            files(&tls.server_cert, &encrypted),
            ["encrypted.key, is encrypted", "openssl pkey"],
        ),
        (
            files(&tls.server_cert, &tls.server_cert),
            ["found no private key (PEM) in `tls.key_file`", "server.pem"],
        ),
        (
            files(&tls.server_cert, &tls.client_key),
            ["cannot be used", "tls.cert_file"],
        ),
        (
            format!("tls = {{ cert_file = {:?} }}", tls.server_cert),
            ["http.tls", "key_file"],
        ),
    ] {
        let text = format!(
            "data_dir = {:?}\n{SOURCE}[http]\nlisten = \"127.0.0.1:0\"\n{keys}\n",
            dir.join("data")
        );
        fs::write(&file, text).unwrap();
        let output = neurobridge_with(&["run", "-c", file.to_str().unwrap()]);
        let printed = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(78), "{keys}: {printed}");
        for sentence in sentences {
            assert!(printed.contains(sentence), "{keys}: no {sentence:?} in {printed}");
        }
    }
    let far = format!("{SOURCE}[http]\nlisten = \"0.0.0.0:1\"\npassword = \"a\"\n");
    fs::write(&file, far).unwrap();
    let checked = neurobridge_with(&["check", "-c", file.to_str().unwrap()]);
    let shown = String::from_utf8_lossy(&checked.stdout);
    assert!(shown.contains("the password is sent unencrypted"), "{shown}");
}
