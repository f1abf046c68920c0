//! Tests of `docker-compose.yml`: valid according to the specification, with pinned images, local ports and a valid
//! configuration.

use std::process::Command;
use std::time::Duration;

use jsonschema::Validator;
use neurobridge_tests::nats::{self, NatsInstallation};
use neurobridge_tests::paths::Scratch;
use neurobridge_tests::poll::wait_for;
use neurobridge_tests::ports::free_ports;
use neurobridge_tests::process::Process;
use neurobridge_tests::shared::with_own_nats;
use neurobridge_tests::{http, kafka};
use serde_json::{Map, Value};

use super::support::{check, read, shipped, version, yaml};

const FILE: &str = "docker-compose.yml";

/// The services that run a bridge.
const BRIDGES: [&str; 3] = ["bridge", "member-1", "member-2"];

fn services() -> Map<String, Value> {
    yaml(FILE)["services"].as_object().unwrap().clone()
}

fn texts(list: &Value) -> Vec<&str> {
    let list = list.as_array().unwrap();
    list.iter().map(|text| text.as_str().unwrap()).collect()
}

#[test]
fn compose_file_matches_the_specification() {
    let schema = serde_json::from_str(&read("tests/data/compose-spec/compose-spec.json")).unwrap();
    let validator: Validator = jsonschema::validator_for(&schema).unwrap();
    let mut file = yaml(FILE);
    let errors: Vec<String> = validator
        .iter_errors(&file)
        .map(|error| format!("{}: {error}", error.instance_path()))
        .collect();
    assert!(errors.is_empty(), "{errors:#?}");
    // A misspelt key proves that the schema detects errors.
    file["services"]["kafka"]["helthcheck"] = Value::Null;
    assert!(!validator.is_valid(&file));
}

#[test]
fn images_are_pinned_to_the_tested_versions() {
    for (name, service) in services() {
        let image = service["image"].as_str().unwrap();
        let (_, tag) = image.rsplit_once(':').unwrap_or_else(|| panic!("{name}: no tag"));
        let numbers = tag
            .split('.')
            .filter(|part| part.contains(|c: char| c.is_ascii_digit()));
        assert!(numbers.count() >= 3, "{name}: {image} has no full version");
    }
    let image = |name: &str| services()[name]["image"].as_str().unwrap().to_owned();
    assert_eq!(image("kafka"), format!("apache/kafka:{}", kafka::VERSION));
    assert_eq!(image("nats"), format!("nats:{}-alpine", nats::VERSION));
    assert_eq!(image("bridge"), format!("neurobridge:{}", version()));
    for name in ["simulator", "member-1", "member-2"] {
        assert_eq!(image(name), image("bridge"), "{name}");
    }
}

#[test]
fn services_are_local_and_have_health_checks() {
    let all = services();
    for (name, service) in &all {
        if service["ports"].is_array() {
            for port in texts(&service["ports"]) {
                assert!(port.starts_with("127.0.0.1:"), "{name}: {port}");
            }
        }
        // The bridge's health check is defined in its image.
        let has_check = service["healthcheck"]["test"].is_array();
        assert!(
            has_check || BRIDGES.contains(&&**name),
            "{name} has no health check"
        );
        assert!(service["privileged"].is_null() && service["network_mode"].is_null());
        if let Some(needed) = service["depends_on"].as_object() {
            for (other, how) in needed {
                assert!(all.contains_key(other), "{name} waits for {other}");
                assert_eq!(how["condition"], "service_healthy", "{name} waits for {other}");
            }
        }
    }
    assert!(read("Dockerfile").contains("\nHEALTHCHECK "));
    for name in BRIDGES {
        assert!(all[name]["depends_on"]["kafka"].is_object(), "{name}");
    }
    assert!(all["grafana"]["depends_on"]["prometheus"].is_object());
}

#[test]
fn profiles_start_one_bridge_or_the_members_of_a_cluster() {
    for (name, service) in services() {
        let profiles = &service["profiles"];
        match name.as_str() {
            "simulator" => assert_eq!(texts(profiles), ["demo", "cluster"]),
            "bridge" => assert_eq!(texts(profiles), ["demo", "bridge"]),
            "member-1" | "member-2" => assert_eq!(texts(profiles), ["cluster"]),
            _ => assert!(profiles.is_null(), "{name} has profiles"),
        }
        // A service without profiles must not require a bridge, which only a profile starts.
        if let Some(needed) = service["depends_on"].as_object().filter(|_| profiles.is_null()) {
            for (other, how) in needed {
                let is_optional = how["required"] == false;
                assert_eq!(
                    is_optional,
                    BRIDGES.contains(&&**other),
                    "{name} waits for {other}"
                );
            }
        }
    }
    let all = services();
    let command = texts(&all["simulator"]["command"]);
    assert!(
        command.windows(2).any(|pair| pair == ["--fault", "cut,every=2m"]),
        "{command:?}"
    );
}

#[test]
fn mounted_files_exist() {
    let file = yaml(FILE);
    let mut mounted = 0;
    for service in file["services"].as_object().unwrap().values() {
        let Some(volumes) = service["volumes"].as_array() else {
            continue;
        };
        for volume in volumes {
            let (source, _) = volume.as_str().unwrap().split_once(':').unwrap();
            if source.starts_with("./") {
                assert!(shipped(source).exists(), "{source} does not exist");
                mounted += 1;
            } else {
                assert!(
                    file["volumes"].as_object().unwrap().contains_key(source),
                    "{source}"
                );
            }
        }
    }
    assert!(mounted >= 4, "{mounted}");
    let token = default_of(file["secrets"]["neuroio_token"]["file"].as_str().unwrap());
    assert!(shipped(token).is_file(), "{token}");
}

/// Returns the default in `${NAME:-default}`.
fn default_of(text: &str) -> &str {
    let inner = text.strip_prefix("${").and_then(|rest| rest.strip_suffix('}'));
    inner.unwrap().split_once(":-").unwrap().1
}

#[test]
fn configuration_of_the_bridge_fits_the_other_services() {
    let services = services();
    let environment = &services["bridge"]["environment"];
    let url = default_of(environment["NEUROBRIDGE__SOURCES__MAIN__URL"].as_str().unwrap());
    let file = shipped("config/compose/neurobridge.toml");
    let output = check(
        file.to_str().unwrap(),
        &[("NEUROBRIDGE__SOURCES__MAIN__URL", url)],
    );
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{output:?}");
    let listener = "kafka:19092";
    assert!(
        printed.contains(&format!("neuroio.entries at {listener}"))
            && printed.contains("ws://simulator:8080/"),
        "{printed}"
    );
    assert!(
        printed.contains("in stream NEUROIO at nats://nats:4222") && services.contains_key("nats"),
        "{printed}"
    );
    for needed in ["kafka", "nats"] {
        let how = &services["bridge"]["depends_on"][needed]["condition"];
        assert_eq!(how, "service_healthy", "{needed}");
    }
    let advertised = services["kafka"]["environment"]["KAFKA_ADVERTISED_LISTENERS"]
        .as_str()
        .unwrap();
    assert!(advertised.contains(&format!("//{listener}")), "{advertised}");
    let command = texts(&services["simulator"]["command"]);
    assert!(
        command
            .windows(2)
            .any(|pair| pair == ["--listen", "0.0.0.0:8080"])
    );
    // The secret is mounted at the path in the configuration.
    assert_eq!(texts(&services["bridge"]["secrets"]), ["neuroio_token"]);
    assert!(printed.contains("/run/secrets/neuroio_token"), "{printed}");
}

#[test]
fn members_share_a_configuration_but_no_name_or_volume() {
    let services = services();
    let url = ("NEUROBRIDGE__SOURCES__MAIN__URL", "ws://simulator:8080/");
    let file = shipped("config/compose/cluster.toml");
    let output = check(file.to_str().unwrap(), &[url]);
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{output:?}");
    assert!(printed.contains("neuroio.entries at kafka:19092"), "{printed}");
    let own = |name: &str| {
        let service = &services[name];
        assert_eq!(service["hostname"], name);
        let volumes: Vec<String> = texts(&service["volumes"])
            .into_iter()
            .map(str::to_owned)
            .collect();
        let [config, data] = volumes.try_into().unwrap();
        assert!(config.starts_with("./config/compose/cluster.toml:"), "{config}");
        (data, texts(&service["ports"]).join(" "))
    };
    let (first, second) = (own("member-1"), own("member-2"));
    assert!(first.0 != second.0 && first.1 != second.1, "{first:?} {second:?}");
    // Prometheus scrapes both members.
    assert_eq!(
        texts(&services["member-1"]["networks"]["default"]["aliases"]),
        ["bridge"]
    );
    let jobs = yaml("config/prometheus/prometheus.yml")["scrape_configs"].take();
    assert_eq!(texts(&jobs[0]["dns_sd_configs"][0]["names"]), ["member-2"]);
}

/// Runs the command line of the service `nats` without a container.
#[test]
fn nats_command_line_starts_and_is_healthy() {
    with_own_nats(|| {
        let dir = Scratch::new("compose-nats").unwrap();
        let [port, http_port] = free_ports().unwrap();
        let services = services();
        let (store, web) = (dir.join("data"), http_port.to_string());
        let arguments = texts(&services["nats"]["command"])
            .into_iter()
            .map(|argument| match argument {
                "/data" => store.to_str().unwrap(),
                "8222" => &web,
                other => other,
            });
        let mut command = Command::new(NatsInstallation::find().unwrap().binary);
        command
            .args(arguments)
            .args(["--addr", "127.0.0.1", "--port", &port.to_string()]);
        let _nats = Process::spawn("nats-server", &mut command, &dir.join("nats.log")).unwrap();
        let check = texts(&services["nats"]["healthcheck"]["test"]);
        let (_, path) = check.last().unwrap().split_once(":8222").unwrap();
        let answer = wait_for("the server to be healthy", Duration::from_secs(30), || {
            Ok(http::get(&format!("127.0.0.1:{http_port}"), path).ok())
        });
        assert!(answer.unwrap().contains("ok"));
    });
}
