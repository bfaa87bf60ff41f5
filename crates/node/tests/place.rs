//! The rights that the manifests give are enough, and no more than is needed; preflight over the API; a node's doctor.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "lays a node out below a temporary directory, and runs this crate's program"
)]

use std::path::Path;
use std::process::{Command, Output};

use kube::Placement;
use serde_json::{Value, json};
use simkube::api::{Account, Options, Rule, Server};

fn node(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
        "spec": {},
        "status": {"nodeInfo": {"kubeletVersion": "v1.34.1", "containerRuntimeVersion": "containerd://2.1.4"}},
    })
}

fn words(list: &[String]) -> Vec<&str> {
    list.iter().map(String::as_str).collect()
}

/// The rules that the manifests give an account.
fn rules(name: &str) -> Vec<Rule> {
    let role = Placement::default()
        .objects()
        .into_iter()
        .find(|object| object["kind"] == "ClusterRole" && object["metadata"]["name"] == name)
        .expect("the role");
    let texts = |list: &Value| -> Vec<String> {
        list.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let rule = |rule: &Value| {
        let (verbs, groups, resources) = (texts(&rule["verbs"]), texts(&rule["apiGroups"]), texts(&rule["resources"]));
        Rule::new(&words(&verbs), &groups[0], &words(&resources))
    };
    role["rules"].as_array().expect("rules").iter().map(rule).collect()
}

/// A PCI function below a root.
fn card(root: &Path) {
    let dir = root.join("sys/bus/pci/devices/0000:26:00.0");
    std::fs::create_dir_all(&dir).expect("a directory");
    for (name, text) in [("vendor", "0x10de\n"), ("device", "0x1d01\n"), ("class", "0x030000\n")] {
        std::fs::write(dir.join(name), text).expect("an attribute");
    }
}

fn run(words: &[&str], root: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_thruway-node"));
    command.args(words).arg("--root").arg(root).env_remove("KUBECONFIG").env_remove("NODE_NAME");
    command.output().expect("thruway-node")
}

fn json_of(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|bad| {
        panic!("{bad}: {}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
    })
}

#[test]
fn discovery_needs_no_more_than_the_manifests_give() {
    let account = Account::pod("bound", "thruway", Placement::DISCOVER, "mufti-4", rules(Placement::DISCOVER));
    let server = Server::start(vec![account], Options::default()).expect("a server");
    server.put("kubelet", node("mufti-4"));
    let dir = tempfile::tempdir().expect("a directory");
    card(dir.path());
    let config = dir.path().join("config");
    std::fs::write(&config, server.kubeconfig("bound")).expect("a kubeconfig");
    let config = config.to_str().expect("UTF-8");
    let done = run(&["discover", "--once", "--node-name", "mufti-4", "--kubeconfig", config], dir.path());
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let labels = &server.get("Node", "", "mufti-4").expect("the node")["metadata"]["labels"];
    assert_eq!(labels[kube::PCI_PRESENT], "true");
    // with a right less it says which is missing
    server.put("kubelet", node("mufti-3"));
    server.account(Account::pod("poor", "thruway", "poor", "mufti-3", vec![Rule::new(&["get"], "", &["nodes"])]));
    std::fs::write(config, server.kubeconfig("poor")).expect("a kubeconfig");
    let done = run(&["discover", "--once", "--node-name", "mufti-3", "--kubeconfig", config], dir.path());
    let says = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(!done.status.success() && says.contains("patch"), "{says}");
}

#[test]
fn preflight_reads_the_nodes_from_the_api() {
    let server = Server::start(vec![Account::admin("admin")], Options::default()).expect("a server");
    let mut with = node("mufti-4");
    with["metadata"]["labels"]["feature.node.kubernetes.io/pci-10de.present"] = json!("true");
    server.put("kubelet", with);
    server.put("kubelet", node("mufti-1"));
    let dir = tempfile::tempdir().expect("a directory");
    let config = dir.path().join("config");
    std::fs::write(&config, server.kubeconfig("admin")).expect("a kubeconfig");
    let config = config.to_str().expect("UTF-8");
    let report = json_of(&run(&["preflight", "--json", "--kubeconfig", config], dir.path()));
    let of = |name: &str| {
        let all = report["nodes"].as_array().expect("nodes");
        all.iter().find(|landing| landing["node"] == name).expect("the node").clone()
    };
    assert_eq!(of("mufti-4")["agent"]["label"], "feature.node.kubernetes.io/pci-10de.present=true");
    assert_eq!(of("mufti-4")["notes"], json!([]));
    assert_eq!(of("mufti-1")["agent"]["state"], "discovered");
    let page = run(&["preflight", "--no-discover", "--kubeconfig", config], dir.path());
    let page = String::from_utf8_lossy(&page.stdout).into_owned();
    assert!(page.contains("The agent lands on 1 of 2 nodes.") && page.contains("- mufti-1  does not land"), "{page}");
    server.down(true);
    let down = run(&["preflight", "--kubeconfig", config], dir.path());
    assert_eq!(down.status.code(), Some(2));
}

#[test]
fn the_doctor_of_a_node_names_the_first_broken_link() {
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::create_dir_all(dir.path().join("sys/bus/pci/devices")).expect("a bus with nothing on it");
    let said = run(&["doctor", "--json"], dir.path());
    assert_eq!(said.status.code(), Some(1));
    let report = json_of(&said);
    assert_eq!(report["first_broken"], "card");
    assert_eq!(report["links"].as_array().map(Vec::len), Some(9));
    card(dir.path());
    let report = json_of(&run(&["doctor", "--json"], dir.path()));
    assert_ne!(report["first_broken"], "card");
    let page = run(&["doctor"], dir.path());
    let page = String::from_utf8_lossy(&page.stdout).into_owned();
    assert!(page.contains("The first broken link: ") && page.contains("    Back: "), "{page}");
}

#[test]
fn every_verb_has_a_grammar() {
    use clap::CommandFactory as _;
    node::cli::Cli::command().debug_assert();
}

/// The image's script, run once where umoci is: cargo test -p thruway-node --test place -- --ignored image
#[test]
#[ignore = "packs the program into an image: some seconds"]
fn an_image_is_built_and_its_program_runs() {
    let dir = tempfile::tempdir().expect("a directory");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/node-image.sh");
    if Command::new("umoci").arg("--version").output().is_err() {
        println!("SKIP: umoci is not installed");
        return;
    }
    let out = dir.path().join("image");
    let build = |out: &Path| {
        let done =
            Command::new(&script).arg(env!("CARGO_BIN_EXE_thruway-node")).arg(out).arg("t").output().expect("sh");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        print!("{}", String::from_utf8_lossy(&done.stdout));
        std::fs::read_to_string(out.join("index.json")).expect("the index")
    };
    assert_eq!(build(&out), build(&dir.path().join("again")), "the same inputs, the same image");
    let bundle = dir.path().join("bundle");
    let image = format!("{}:t", out.display());
    let done =
        Command::new("umoci").args(["unpack", "--rootless", "--image", &image]).arg(&bundle).output().expect("umoci");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let config: Value =
        serde_json::from_slice(&std::fs::read(bundle.join("config.json")).expect("a file")).expect("its JSON");
    assert_eq!(config["process"]["args"], json!(["/usr/bin/thruway-node"]));
    assert_eq!(config["process"]["user"]["uid"], 65534, "the manifests say where it must be root");
    let labels = &config["annotations"];
    assert_eq!(labels["org.opencontainers.image.version"], env!("CARGO_PKG_VERSION"), "{labels}");
    assert_eq!(labels["org.opencontainers.image.licenses"], "Apache-2.0");
    let said = Command::new("chroot").arg(bundle.join("rootfs")).args(["/usr/bin/thruway-node", "--version"]).output();
    let said = said.expect("chroot");
    if !said.status.success() && String::from_utf8_lossy(&said.stderr).contains("not permitted") {
        println!("SKIP: not root");
        return;
    }
    assert!(String::from_utf8_lossy(&said.stdout).starts_with("thruway-node "), "{said:?}");
}

/// The kubelet (simulated, over its real sockets) tells what is registered and which pod holds which card.
#[test]
fn the_doctor_hears_the_kubelets_grants() {
    use simkube::kubelet::{Ask, Kubelet};
    use simkube::plugin::Plugin;
    let dir = tempfile::tempdir().expect("a directory");
    let kubelet_dir = dir.path().join("kubelet");
    let uuid = "GPU-00000000-0000-4000-8000-000000000001";
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a loop");
    runtime.block_on(async {
        let kubelet = Kubelet::start(&kubelet_dir).await.expect("a kubelet");
        let plugin = Plugin::start(kubelet.dir(), "nvidia-gpu.sock", &[uuid]).await.expect("a plugin");
        plugin.register("v1beta1", "nvidia.com/gpu").await.expect("registered");
        let limit = std::time::Duration::from_secs(10);
        assert!(kubelet.until("nvidia.com/gpu", limit, |it| it.connected && !it.healthy().is_empty()).await);
        kubelet.admit(&Ask::new("jellyfin", "nvidia.com/gpu", 1)).await.expect("a grant");
        let root = dir.path().to_owned();
        let base = kubelet.dir().parent().expect("a directory").strip_prefix(&root).expect("below").to_owned();
        let report = tokio::task::spawn_blocking(move || {
            json_of(&run(&["doctor", "--json", "--kubelet-dir", &format!("/{}", base.display())], &root))
        });
        let report = report.await.expect("a report");
        let link = |name: &str| {
            let all = report["links"].as_array().expect("links");
            all.iter().find(|link| link["name"] == name).expect("the link").clone()
        };
        assert_eq!(link("kubelet")["state"], "holds", "{report:#}");
        assert_eq!(link("registration")["says"], "nvidia.com/gpu: 1");
        assert_eq!(report["grants"][0]["device"], uuid, "{report:#}");
        assert!(report["grants"][0]["pod"].as_str().is_some_and(|pod| pod.ends_with("/jellyfin")), "{report:#}");
        assert!(link("grants")["says"].as_str().is_some_and(|says| says.contains("jellyfin")), "{report:#}");
    });
}
