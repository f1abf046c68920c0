//! `Dockerfile` and the Kubernetes manifest.

use std::fs;

use neurobridge_tests::paths::Scratch;
use serde_json::Value;

use super::support::{check, read, shipped, version, yaml};

#[test]
fn the_image_is_pinned_not_root_and_asks_itself_for_its_health() {
    let file = read("Dockerfile");
    let lines = |word: &str| {
        let word = format!("{word} ");
        let found = file.lines().filter_map(|line| line.strip_prefix(&word));
        found.map(str::to_owned).collect::<Vec<_>>()
    };
    let images = lines("FROM");
    assert!(images.len() >= 3, "{images:?}");
    for image in &images {
        let (name, tag) = image.split_whitespace().next().unwrap().split_once(':').unwrap();
        assert!(tag.contains('.'), "{image} names no full version");
        assert!(["rust", "debian"].contains(&name), "{image}");
        // One Debian, and so one C library, where it is built and where it runs.
        assert!(tag.contains("bookworm") || tag.starts_with("12."), "{image}");
    }
    let compiler = images[0].split([':', '-']).nth(1).unwrap();
    assert!(
        compiler.starts_with(env!("CARGO_PKG_RUST_VERSION")),
        "{compiler} is not the oldest compiler that the workspace allows"
    );
    assert_eq!(lines("USER"), ["10001:10001"]);
    assert_eq!(lines("ENTRYPOINT"), ["[\"neurobridge\"]"]);
    assert!(file.contains("CMD [\"neurobridge\", \"healthcheck\""), "{file}");
}

/// What the Dockerfile copies is what `.dockerignore` lets through: manifests of every member, the code of the program.
#[test]
fn the_build_gets_what_it_needs_and_no_more() {
    let ignore = read(".dockerignore");
    let let_through: Vec<&str> = ignore.lines().filter_map(|line| line.strip_prefix('!')).collect();
    assert!(ignore.lines().any(|line| line == "*"), "all else stays out");
    for path in &let_through {
        assert!(shipped(path).exists(), "{path}");
    }
    for member in members() {
        let covered = match member.as_str() {
            "crates/*" => let_through.contains(&"crates"),
            folder => let_through.contains(&&*format!("{folder}/Cargo.toml")),
        };
        assert!(covered, "the manifest of {member} does not get into the build");
        if member != "crates/*" {
            assert!(
                read("Dockerfile").contains(&format!("{member}/Cargo.toml")),
                "{member}"
            );
        }
    }
}

/// The list of the workspace's members, which stands in one line.
fn members() -> Vec<String> {
    let manifest = read("Cargo.toml");
    let list = manifest.lines().find_map(|line| line.strip_prefix("members = "));
    serde_json::from_str(list.unwrap()).unwrap()
}

fn manifest() -> Vec<Value> {
    serde_saphyr::from_multiple(&read("config/kubernetes/neurobridge.yaml")).unwrap()
}

fn object(kind: &str) -> Value {
    let found = manifest().into_iter().find(|object| object["kind"] == kind);
    found.unwrap_or_else(|| panic!("no {kind}"))
}

#[test]
fn there_is_one_bridge_at_a_time_and_it_may_do_little() {
    let deployment = object("Deployment");
    assert_eq!(deployment["spec"]["replicas"], 1);
    assert_eq!(deployment["spec"]["strategy"]["type"], "Recreate");
    let pod = &deployment["spec"]["template"]["spec"];
    assert_eq!(pod["enableServiceLinks"], false);
    assert_eq!(pod["automountServiceAccountToken"], false);
    assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
    assert!(pod["terminationGracePeriodSeconds"].as_u64() > Some(8));
    let container = &pod["containers"][0];
    let user = &pod["securityContext"]["runAsUser"];
    assert!(read("Dockerfile").contains(&format!("\nUSER {user}:{user}\n")));
    assert_eq!(container["image"], format!("neurobridge:{}", version()));
    assert_eq!(container["securityContext"]["readOnlyRootFilesystem"], true);
    assert_eq!(container["securityContext"]["allowPrivilegeEscalation"], false);
    assert_eq!(container["livenessProbe"]["httpGet"]["path"], "/livez");
    assert_eq!(container["readinessProbe"]["httpGet"]["path"], "/readyz");
    assert!(container["resources"]["limits"]["memory"].is_string());
    // The service and the deployment mean the same pods.
    let labels = &deployment["spec"]["template"]["metadata"]["labels"];
    assert_eq!(&object("Service")["spec"]["selector"], labels);
    assert_eq!(&deployment["spec"]["selector"]["matchLabels"], labels);
    // Each mount has its volume.
    for mount in container["volumeMounts"].as_array().unwrap() {
        let volumes = pod["volumes"].as_array().unwrap();
        assert!(
            volumes.iter().any(|volume| volume["name"] == mount["name"]),
            "{mount}"
        );
    }
}

#[test]
fn the_configuration_in_the_manifest_is_right() {
    let config = object("ConfigMap")["data"]["neurobridge.toml"].take();
    let dir = Scratch::new("kubernetes").unwrap();
    let file = dir.join("neurobridge.toml");
    fs::write(&file, config.as_str().unwrap()).unwrap();
    let output = check(file.to_str().unwrap(), &[]);
    assert!(output.status.success(), "{output:?}");
    let token = "/run/secrets/neurobridge/neuroio_token";
    assert!(String::from_utf8_lossy(&output.stdout).contains(token));
    let mounts = object("Deployment")["spec"]["template"]["spec"]["containers"][0]["volumeMounts"].take();
    let secret = mounts
        .as_array()
        .unwrap()
        .iter()
        .find(|mount| mount["name"] == "token")
        .unwrap();
    assert!(token.starts_with(secret["mountPath"].as_str().unwrap()));
}

#[test]
fn all_in_the_manifest_is_of_known_kinds() {
    let kinds: Vec<String> = manifest()
        .iter()
        .map(|object| object["kind"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(
        kinds,
        ["ConfigMap", "PersistentVolumeClaim", "Deployment", "Service"]
    );
    // The rules know the bridge by the name of its job.
    let jobs = yaml("config/prometheus/prometheus.yml")["scrape_configs"].take();
    assert_eq!(jobs[0]["job_name"], "neurobridge");
}
