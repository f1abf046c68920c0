//! Tests of the `Dockerfile` and of the Kubernetes manifests.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use neurobridge_tests::paths::Scratch;
use neurobridge_tests::program::cargo;
use serde_json::Value;

use super::support::{check, read, shipped, version, yaml};

#[test]
fn image_is_pinned_unprivileged_and_has_a_health_check() {
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
        assert!(tag.contains('.'), "{image} has no full version");
        assert!(["rust", "debian"].contains(&name), "{image}");
        // The build and the final image use the same Debian release, and therefore the same C library.
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

/// The files that the Dockerfile copies are those that `.dockerignore` permits: the manifests of all members and the
/// program's code.
#[test]
fn build_context_has_only_the_required_files() {
    let ignore = read(".dockerignore");
    let permitted: Vec<&str> = ignore.lines().filter_map(|line| line.strip_prefix('!')).collect();
    assert!(
        ignore.lines().any(|line| line == "*"),
        "all other files must be excluded"
    );
    for path in &permitted {
        assert!(shipped(path).exists(), "{path}");
    }
    for member in members() {
        let covered = match member.as_str() {
            "crates/*" => permitted.contains(&"crates"),
            folder => permitted.contains(&&*format!("{folder}/Cargo.toml")),
        };
        assert!(covered, "the manifest of {member} is not in the build context");
        if member != "crates/*" {
            assert!(
                read("Dockerfile").contains(&format!("{member}/Cargo.toml")),
                "{member}"
            );
        }
    }
}

/// Files that the code of a crate includes at compile time are part of the build too.
#[test]
fn build_context_has_files_included_by_code() {
    let crates = shipped("crates");
    for file in files_below(&crates).filter(|file| file.extension().is_some_and(|found| found == "rs")) {
        // Documentation tests are not part of the build.
        let text = fs::read_to_string(&file)
            .unwrap()
            .replace("#[cfg(doctest)]\n#[doc = include_str!", "");
        for rest in text.split("include_str!(\"").skip(1) {
            let included = file.parent().unwrap().join(rest.split('"').next().unwrap());
            let included = included.canonicalize().unwrap();
            let path = included
                .strip_prefix(shipped("").canonicalize().unwrap())
                .unwrap();
            let is_in = path.starts_with("crates")
                || read(".dockerignore")
                    .lines()
                    .filter_map(|line| line.strip_prefix('!'))
                    .any(|permitted| path.starts_with(permitted));
            assert!(is_in, "{} includes {}", file.display(), path.display());
        }
    }
}

fn files_below(folder: &Path) -> impl Iterator<Item = PathBuf> {
    let mut folders = vec![folder.to_owned()];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                files.push(path);
            }
        }
    }
    files.into_iter()
}

/// The first stage of the Dockerfile must create a workspace that cargo can read, with a file for each program in a manifest.
#[test]
fn cargo_manifests_suffice_to_compile_dependencies() {
    let scratch = Scratch::new("image").unwrap();
    for line in read(".dockerignore")
        .lines()
        .filter_map(|line| line.strip_prefix('!'))
    {
        let to = scratch.join(line);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        succeeds(Command::new("cp").arg("-r").arg(shipped(line)).arg(to));
    }
    let file = read("Dockerfile");
    let shell = file.lines().find_map(|line| line.strip_prefix("SHELL ")).unwrap();
    let shell: Vec<String> = serde_json::from_str(shell).unwrap();
    let (_, rest) = file.split_once("\nRUN ").unwrap();
    let (run, _) = rest.split_once("\n\n").unwrap();
    succeeds(
        Command::new(&shell[0])
            .args(&shell[1..])
            .arg(run)
            .current_dir(scratch.path()),
    );
    let metadata = cargo()
        .args([
            "metadata",
            "--no-deps",
            "--offline",
            "--locked",
            "--format-version=1",
        ])
        .current_dir(scratch.path())
        .output()
        .unwrap();
    assert!(
        metadata.status.success(),
        "{}",
        String::from_utf8_lossy(&metadata.stderr)
    );
    let metadata: Value = serde_json::from_slice(&metadata.stdout).unwrap();
    let mut programs = 0;
    for package in metadata["packages"].as_array().unwrap() {
        for target in package["targets"].as_array().unwrap() {
            let path = target["src_path"].as_str().unwrap();
            if target["kind"][0] != "test" {
                assert!(fs::exists(path).unwrap(), "{path}");
                programs += 1;
            }
        }
    }
    assert!(programs > 10, "{programs}");
}

fn succeeds(command: &mut Command) {
    let output = command.output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {error}");
}

/// Returns the workspace's members, which are listed on one line.
fn members() -> Vec<String> {
    let manifest = read("Cargo.toml");
    let list = manifest.lines().find_map(|line| line.strip_prefix("members = "));
    serde_json::from_str(list.unwrap()).unwrap()
}

/// The manifest of a single bridge.
const ALONE: &str = "config/kubernetes/neurobridge.yaml";
/// The manifest of a cluster of two members.
const CLUSTER: &str = "config/kubernetes-cluster/neurobridge.yaml";

fn manifest(file: &str) -> Vec<Value> {
    serde_saphyr::from_multiple(&read(file)).unwrap()
}

fn object(file: &str, kind: &str) -> Value {
    let found = manifest(file).into_iter().find(|object| object["kind"] == kind);
    found.unwrap_or_else(|| panic!("no {kind} in {file}"))
}

#[test]
fn manifest_runs_one_unprivileged_bridge() {
    let deployment = object(ALONE, "Deployment");
    assert_eq!(deployment["spec"]["replicas"], 1);
    assert_eq!(deployment["spec"]["strategy"]["type"], "Recreate");
    assert_pods_are_unprivileged(ALONE, &deployment);
}

#[test]
fn cluster_manifest_protects_one_member_from_disruption() {
    let set = object(CLUSTER, "StatefulSet");
    let spec = &set["spec"];
    assert_eq!(spec["replicas"], 2);
    assert_eq!(spec["updateStrategy"]["type"], "RollingUpdate");
    assert_pods_are_unprivileged(CLUSTER, &set);
    let labels = &spec["template"]["metadata"]["labels"];
    let budget = object(CLUSTER, "PodDisruptionBudget");
    assert_eq!(budget["spec"]["minAvailable"], 1);
    assert_eq!(&budget["spec"]["selector"]["matchLabels"], labels);
    let service = object(CLUSTER, "Service");
    assert_eq!(service["spec"]["clusterIP"], "None");
    assert_eq!(spec["serviceName"], service["metadata"]["name"]);
    let apart = &spec["template"]["spec"]["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
        [0];
    assert_eq!(apart["topologyKey"], "kubernetes.io/hostname");
    assert_eq!(&apart["labelSelector"]["matchLabels"], labels);
}

/// Checks the pods of a deployment or of a stateful set.
fn assert_pods_are_unprivileged(file: &str, deployment: &Value) {
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
    // The service and the deployment select the same pods.
    let labels = &deployment["spec"]["template"]["metadata"]["labels"];
    assert_eq!(&object(file, "Service")["spec"]["selector"], labels);
    assert_eq!(&deployment["spec"]["selector"]["matchLabels"], labels);
    // Each mount has a volume.
    for mount in container["volumeMounts"].as_array().unwrap() {
        let volumes = pod["volumes"].as_array().unwrap().iter();
        let claims = deployment["spec"]["volumeClaimTemplates"].as_array();
        let claims = claims
            .into_iter()
            .flatten()
            .map(|claim| &claim["metadata"]["name"]);
        let mut names = volumes.map(|volume| &volume["name"]).chain(claims);
        assert!(names.any(|name| *name == mount["name"]), "{mount}");
    }
}

#[test]
fn configuration_in_kubernetes_manifests_is_valid() {
    for (file, kind) in [(ALONE, "Deployment"), (CLUSTER, "StatefulSet")] {
        assert_configuration_is_valid(file, kind);
    }
}

fn assert_configuration_is_valid(manifest: &str, kind: &str) {
    let config = object(manifest, "ConfigMap")["data"]["neurobridge.toml"].take();
    let dir = Scratch::new("kubernetes").unwrap();
    let file = dir.join("neurobridge.toml");
    fs::write(&file, config.as_str().unwrap()).unwrap();
    let output = check(file.to_str().unwrap(), &[]);
    assert!(output.status.success(), "{output:?}");
    let token = "/run/secrets/neurobridge/neuroio_token";
    assert!(String::from_utf8_lossy(&output.stdout).contains(token));
    let mounts = object(manifest, kind)["spec"]["template"]["spec"]["containers"][0]["volumeMounts"].take();
    let secret = mounts
        .as_array()
        .unwrap()
        .iter()
        .find(|mount| mount["name"] == "token")
        .unwrap();
    assert!(token.starts_with(secret["mountPath"].as_str().unwrap()));
}

#[test]
fn kubernetes_manifests_have_only_expected_objects() {
    let kinds = |file: &str| -> Vec<String> {
        let objects = manifest(file);
        let kinds = objects.iter().map(|object| object["kind"].as_str().unwrap());
        kinds.map(str::to_owned).collect()
    };
    assert_eq!(
        kinds(ALONE),
        ["ConfigMap", "PersistentVolumeClaim", "Deployment", "Service"]
    );
    assert_eq!(
        kinds(CLUSTER),
        ["ConfigMap", "PodDisruptionBudget", "StatefulSet", "Service"]
    );
    // The alert rules select the bridge by the name of its job.
    let jobs = yaml("config/prometheus/prometheus.yml")["scrape_configs"].take();
    assert_eq!(jobs[0]["job_name"], "neurobridge");
}
