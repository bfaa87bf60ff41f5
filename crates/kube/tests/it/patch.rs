//! The seed's Deployment and other people's files.

use kube::patch::{Wish, file};
use proptest::prelude::*;

const SEED: &str = "\
# Jellyfin on the GPU node
apiVersion: v1
kind: Service
metadata:
  name: jellyfin
---
apiVersion: apps/v1
kind: Deployment
metadata:
  name: jellyfin
  namespace: media   # with the films
spec:
  replicas: 1
  template:
    spec:
      affinity:
        nodeAffinity:
          requiredDuringSchedulingIgnoredDuringExecution:
            nodeSelectorTerms:
            - matchExpressions:
              # the one node with a card
              - key: nvidia.com/gpu
                operator: In
                values: [dedicated]
      containers:
      - name: jellyfin
        image: jellyfin/jellyfin:10.7.7  # pinned
        env:
        # all of them
        - name: NVIDIA_VISIBLE_DEVICES
          value: all
        # decode and encode
        - name: NVIDIA_DRIVER_CAPABILITIES
          value: all
        ports:
        - containerPort: 8096
      # the end
";

#[test]
fn the_seeds_deployment_asks_for_its_gpu_and_keeps_its_comments() {
    let done = file(SEED, None, &Wish::default()).expect("is edited");
    assert_eq!(done.workload, "Deployment media/jellyfin");
    assert_eq!(
        done.words,
        ["drop NVIDIA_VISIBLE_DEVICES from container jellyfin", "ask for nvidia.com/gpu: 1 in container jellyfin"]
    );
    let wanted = SEED.replace("        - name: NVIDIA_VISIBLE_DEVICES\n          value: all\n", "").replace(
        "        - containerPort: 8096\n",
        "        - containerPort: 8096\n        resources:\n          limits:\n            nvidia.com/gpu: 1\n",
    );
    assert_eq!(done.text, wanted);
    assert!(done.diff.contains("-        - name: NVIDIA_VISIBLE_DEVICES\n"), "{}", done.diff);
    // and there is nothing left to do
    let again = file(&done.text, Some("deployment/jellyfin"), &Wish::default()).expect("is edited");
    assert_eq!((again.words.len(), again.text), (0, done.text));
}

#[test]
fn node_selection_goes_where_it_is_asked_for() {
    let wish = Wish { gpus: 2, drop_affinity: true, ..Wish::default() };
    let done = file(SEED, None, &wish).expect("is edited");
    assert!(!done.text.contains("affinity"), "{}", done.text);
    assert!(done.text.contains("    spec:\n      containers:\n"), "{}", done.text);
    assert!(done.text.contains("nvidia.com/gpu: 2\n"));
    let two = SEED.replace(
        "              # the one node with a card\n",
        "              - {key: kubernetes.io/arch, operator: In, values: [amd64]}\n",
    );
    let done = file(&two, None, &wish).expect("is edited");
    assert!(
        done.text.contains("            - matchExpressions:\n              - {key: kubernetes.io/arch"),
        "{}",
        done.text
    );
    assert!(!done.text.contains("dedicated"));
    let selector = "kind: Pod\nmetadata: {name: p}\nspec:\n  nodeSelector: {nvidia.com/gpu: dedicated}\n  containers:\n  - name: a\n";
    let done = file(selector, None, &wish).expect("is edited");
    assert_eq!(
        done.text,
        "kind: Pod\nmetadata: {name: p}\nspec:\n  containers:\n  - name: a\n    resources:\n      limits:\n        nvidia.com/gpu: 2\n"
    );
}

/// A pod's file whose container ends so, and what becomes of it.
fn container(before: &str, after: &str) {
    let frame = |part: &str| {
        format!("kind: Pod\nmetadata:\n  name: p\nspec:\n  containers:\n  - name: a\n{part}  restartPolicy: Never\n")
    };
    let done = file(&frame(before), None, &Wish::default()).unwrap_or_else(|bad| panic!("{bad}: {before}"));
    assert_eq!(done.text, frame(after), "{before}");
}

#[test]
fn resources_are_completed_in_the_files_own_form() {
    container("    resources: {}\n", "    resources: {limits: {nvidia.com/gpu: 1}}\n");
    container("    resources:\n", "    resources: {limits: {nvidia.com/gpu: 1}}\n");
    container("    resources: null # none\n", "    resources: {limits: {nvidia.com/gpu: 1}} # none\n");
    container(
        "    resources:\n        limits:\n            memory: 1Gi # enough\n",
        "    resources:\n        limits:\n            memory: 1Gi # enough\n            nvidia.com/gpu: 1\n",
    );
    container(
        "    resources: {limits: {memory: 1Gi}, requests: {cpu: 1}}\n",
        "    resources: {limits: {memory: 1Gi, nvidia.com/gpu: 1}, requests: {cpu: 1}}\n",
    );
    container(
        "    resources:\n      requests:\n        nvidia.com/gpu: \"2\"\n      limits:\n        nvidia.com/gpu: \"2\"\n",
        "    resources:\n      requests:\n        nvidia.com/gpu: \"1\"\n      limits:\n        nvidia.com/gpu: \"1\"\n",
    );
    container("    resources: {limits: {nvidia.com/gpu: '1'}}\n", "    resources: {limits: {nvidia.com/gpu: '1'}}\n");
    container(
        "    env: [{name: NVIDIA_VISIBLE_DEVICES, value: all}, {name: TZ, value: UTC}]\n",
        "    env: [{name: TZ, value: UTC}]\n    resources:\n      limits:\n        nvidia.com/gpu: 1\n",
    );
    container(
        "    env:\n    - name: NVIDIA_VISIBLE_DEVICES\n      value: all\n    args: [x]\n",
        "    args: [x]\n    resources:\n      limits:\n        nvidia.com/gpu: 1\n",
    );
    // void takes nothing, and what comes from elsewhere is not ours to judge
    container(
        "    env:\n    - {name: NVIDIA_VISIBLE_DEVICES, value: void}\n    command:\n    - |\n      a\n",
        "    env:\n    - {name: NVIDIA_VISIBLE_DEVICES, value: void}\n    command:\n    - |\n      a\n    resources:\n      limits:\n        nvidia.com/gpu: 1\n",
    );
}

#[test]
fn first_keys_files_of_windows_json_and_lists_are_edited_too() {
    let first = "kind: Pod\nmetadata: {name: p}\nspec:\n  containers:\n  - env:\n    - name: NVIDIA_VISIBLE_DEVICES\n      value: all\n    name: a";
    let done = file(first, None, &Wish::default()).expect("is edited");
    assert_eq!(
        done.text,
        "kind: Pod\nmetadata: {name: p}\nspec:\n  containers:\n  - name: a\n    resources:\n      limits:\n        nvidia.com/gpu: 1\n"
    );
    let windows = SEED.replace('\n', "\r\n");
    let done = file(&windows, None, &Wish::default()).expect("is edited");
    assert_eq!(done.text.replace("\r\n", "\n"), file(SEED, None, &Wish::default()).expect("is edited").text);
    assert_eq!(done.text.matches('\n').count(), done.text.matches("\r\n").count());
    let json = r#"{"kind": "List", "items": [{"kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": [
  {"name": "a", "env": [{"name": "NVIDIA_VISIBLE_DEVICES", "value": "all"}]}]}}]}"#;
    let done = file(json, None, &Wish::default()).expect("is edited");
    let value: serde_json::Value = serde_json::from_str(&done.text).expect("still JSON");
    assert_eq!(
        value["items"][0]["spec"]["containers"][0],
        serde_json::json!({"name": "a", "resources": {"limits": {"nvidia.com/gpu": 1}}})
    );
}

#[test]
fn what_cannot_be_edited_surely_is_refused_with_its_place() {
    let says =
        |text: &str, name: Option<&str>, wish: &Wish| file(text, name, wish).expect_err("is refused").to_string();
    let plain = Wish::default();
    assert_eq!(
        says("kind: ConfigMap\n", None, &plain),
        "there is no workload in it (Deployment, StatefulSet, DaemonSet, Job, CronJob, Pod)"
    );
    assert_eq!(says(SEED, Some("plex"), &plain), "there is no plex in it; there is deployment/jellyfin");
    assert_eq!(
        says(SEED, None, &Wish { container: Some("x".into()), ..plain.clone() }),
        "Deployment media/jellyfin: it has no container x; it has jellyfin"
    );
    let alias = "x: &e\n- {name: NVIDIA_VISIBLE_DEVICES, value: all}\nkind: Pod\nmetadata: {name: p}\nspec:\n  containers:\n  - name: a\n    env: *e\n";
    assert_eq!(
        says(alias, None, &plain),
        "line 8: what is to be changed stands elsewhere, by an alias or a merge; write it out here first"
    );
    let two = format!("{SEED}---\n{}", SEED.replace("name: jellyfin", "name: plex"));
    assert_eq!(says(&two, None, &plain), "name one of its workloads: deployment/jellyfin, deployment/plex");
    assert!(file(&two, Some("deployment/plex"), &plain).is_ok());
    let mig = "kind: Pod\nmetadata: {name: p}\nspec:\n  containers:\n  - name: a\n    resources: {limits: {nvidia.com/mig-1g.5gb: 1}}\n";
    assert!(says(mig, None, &plain).contains("asks for nvidia.com/mig-1g.5gb already"));
    assert_eq!(says("kind: Pod\n  x: 1\n", None, &plain).split(':').next(), Some("line 2"));
}

proptest! {
    /// Whatever stands in a file: it is edited rightly (the proof is in [`file`] itself), refused, or left alone.
    #[test]
    fn any_file_is_edited_or_refused(
        parts in prop::collection::vec(prop_oneof![
            Just("    env:\n    - name: NVIDIA_VISIBLE_DEVICES\n      value: all\n".to_owned()),
            Just("    env: [{name: NVIDIA_VISIBLE_DEVICES, value: all}]\n".to_owned()),
            Just("    resources:\n      limits: {}\n".to_owned()),
            Just("    # nothing\n\n".to_owned()),
            "[ ]{4}[a-z]{1,4}: [-a-z0-9:#&*!|>'\"\\[\\]{}, ]{0,12}\n",
        ], 0..5),
        drop_affinity in any::<bool>(),
    ) {
        let text = format!("kind: Pod\nmetadata: {{name: p}}\nspec:\n  containers:\n  - name: a\n{}", parts.concat());
        let wish = Wish { drop_affinity, ..Wish::default() };
        if let Ok(done) = file(&text, None, &wish) {
            prop_assert_eq!(file(&done.text, None, &wish).map(|again| again.words), Ok(Vec::new()), "{}", done.text);
        }
    }
}
