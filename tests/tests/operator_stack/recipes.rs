//! Tests of the Kubernetes kustomization and its overlay, and of the recipes in `config/recipes`.

use std::fs;

use super::support::{check, read, shipped, yaml};

#[test]
fn overlay_changes_only_objects_of_the_manifest() {
    let base = yaml("config/kubernetes/kustomization.yaml");
    assert_eq!(base["resources"], serde_json::json!(["neurobridge.yaml"]));
    let overlay = yaml("config/kubernetes-overlay/kustomization.yaml");
    assert_eq!(
        overlay["resources"],
        serde_json::json!(["namespace.yaml", "../kubernetes"])
    );
    let manifest: Vec<serde_json::Value> =
        serde_saphyr::from_multiple(&read("config/kubernetes/neurobridge.yaml")).unwrap();
    let object = |kind: &str| {
        let found = manifest.iter().find(|object| object["kind"] == kind);
        found.unwrap_or_else(|| panic!("no {kind}"))
    };
    // Each object that the overlay replaces must have the same name in the manifest.
    let image = object("Deployment")["spec"]["template"]["spec"]["containers"][0]["image"].as_str();
    let (name, tag) = image.unwrap().split_once(':').unwrap();
    assert_eq!(overlay["images"][0]["name"], name);
    assert_eq!(overlay["images"][0]["newTag"], tag);
    let generated = &overlay["configMapGenerator"][0];
    assert_eq!(generated["name"], object("ConfigMap")["metadata"]["name"]);
    assert_eq!(generated["behavior"], "replace");
    let file = generated["files"][0].as_str().unwrap();
    assert!(object("ConfigMap")["data"][file].is_string(), "{file}");
    let patch = &overlay["patches"][0];
    assert_eq!(
        patch["target"]["name"],
        object("PersistentVolumeClaim")["metadata"]["name"]
    );
    let changed: serde_json::Value = serde_saphyr::from_str(patch["patch"].as_str().unwrap()).unwrap();
    let path = changed[0]["path"].as_str().unwrap();
    assert!(
        object("PersistentVolumeClaim").pointer(path).is_some(),
        "the manifest has no {path}"
    );
    let config = shipped("config/kubernetes-overlay").join(file);
    let output = check(config.to_str().unwrap(), &[]);
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn recipes_are_valid_and_documented() {
    let page = read("docs/recipes.md");
    let mut recipes = 0;
    for entry in fs::read_dir(shipped("config/recipes")).unwrap() {
        let path = entry.unwrap().path();
        let output = check(path.to_str().unwrap(), &[]);
        let shown = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{}: {output:?}", path.display());
        // No recipe contains a secret, sends a secret unencrypted, or names an unknown field.
        for risk in ["plain text", "unencrypted", "unknown field"] {
            assert!(!shown.contains(risk), "{}: {shown}", path.display());
        }
        let name = path.file_name().unwrap().to_str().unwrap();
        assert!(page.contains(&format!("](../config/recipes/{name})")), "{name}");
        recipes += 1;
    }
    assert_eq!(recipes, 4);
}
