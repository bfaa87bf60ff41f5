//! The seed's cluster: four nodes, one card. Discovery runs as the real program on each node, the agent's labels on the one with
//! the card; the API, the controllers and the trees of the nodes are simulated.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::panic,
    reason = "lays nodes out below a temporary directory, and runs this crate's program"
)]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use kube::plugin::Config;
use kube::{PCI_PRESENT, Placement};
use machine::Root;
use machine::nvml::{NvmlGpu, NvmlReport};
use model::Seen;
use node::api::{Access, Api};
use node::cluster::{Link, Pace, Task, begin};
use node::labels::{Labels, MANAGER, Writer, wanted};
use serde_json::{Value, json};
use simkube::api::{Account, Options, Rule, Server};

const NODES: &str = include_str!("../../kube/tests/fixtures/seed-kube-nodes.json");
const CARD: &str = "0000:26:00.0";

struct Cluster {
    server: Server,
    dir: tempfile::TempDir,
    discoverers: Vec<Child>,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for child in &mut self.discoverers {
            drop(child.kill());
            drop(child.wait());
        }
    }
}

impl Cluster {
    fn new() -> Cluster {
        let nodes: Value = serde_json::from_str(NODES).expect("the seed's nodes");
        let names = || (1..=4).map(|n| format!("mufti-{n}"));
        let placement = Placement::default();
        let objects = placement.objects();
        let account = |node: String| {
            // discovery's token on each node, and the agent's
            [("", Placement::DISCOVER), ("agent-", Placement::AGENT)].map(|(prefix, name)| {
                let token = format!("{prefix}{node}");
                Account::pod(&token, &placement.namespace, name, &node, rules(&objects, name))
            })
        };
        let server = Server::start(names().flat_map(account).collect(), Options::default()).expect("a server");
        for node in nodes["items"].as_array().expect("nodes") {
            let mut node = node.clone();
            // what the lists of the fixture hold beside the objects
            for key in ["uid", "resourceVersion", "creationTimestamp"] {
                node["metadata"].as_object_mut().expect("metadata").remove(key);
            }
            server.put("kubelet", node);
        }
        for object in &objects {
            server.put("kubectl", object.clone());
        }
        let dir = tempfile::tempdir().expect("a directory");
        for name in names() {
            for token in [name.clone(), format!("agent-{name}")] {
                let text = server.kubeconfig(&token);
                std::fs::write(dir.path().join(format!("{token}.config")), text).expect("a kubeconfig");
            }
            let bus = dir.path().join(&name).join("sys/bus/pci/devices");
            std::fs::create_dir_all(bus).expect("a tree");
            function(&dir.path().join(&name), "0000:00:1f.2", "1022", "7901", "010601", Some("ahci"));
        }
        let root = dir.path().join("mufti-4");
        function(&root, CARD, "10de", "1d01", "030000", Some("nvidia"));
        function(&root, "0000:26:00.1", "10de", "0fb8", "040300", Some("snd_hda_intel"));
        Cluster { server, dir, discoverers: Vec::new() }
    }

    fn root(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn config(&self, name: &str) -> PathBuf {
        self.dir.path().join(format!("{name}.config"))
    }

    /// Begins discovery on all nodes, as the program is run.
    fn discover(&mut self) {
        for number in 1..=4 {
            let name = format!("mufti-{number}");
            let child = Command::new(env!("CARGO_BIN_EXE_thruway-node"))
                .arg("discover")
                .args(["--every", "1", "--node-name", &name])
                .arg("--root")
                .arg(self.root(&name))
                .arg("--kubeconfig")
                .arg(self.config(&name))
                .stderr(Stdio::null())
                .spawn()
                .expect("thruway-node");
            self.discoverers.push(child);
        }
    }

    /// "DESIRED" of `kubectl get daemonset`, and the nodes with a pod.
    fn placed(&self) -> (u64, Vec<String>) {
        let set = self.server.get("DaemonSet", "thruway", "thruway-node").expect("the DaemonSet");
        let desired = set["status"]["desiredNumberScheduled"].as_u64().expect("a count");
        let node = |pod: &Value| pod["spec"]["nodeName"].as_str().unwrap_or("none").to_owned();
        let of_agent = |pod: &&Value| pod["metadata"]["labels"]["app.kubernetes.io/name"] == Placement::AGENT;
        (desired, self.server.list("Pod").iter().filter(of_agent).map(node).collect())
    }

    /// Labels of ours and of NVIDIA's, by node.
    fn labels(&self) -> Vec<(String, Labels)> {
        let of = |node: &Value| {
            let name = node["metadata"]["name"].as_str().expect("a name").to_owned();
            let labels = node["metadata"]["labels"].as_object().expect("labels").clone();
            let ours =
                labels.into_iter().filter(|(key, _)| key.contains("nvidia.com/") || key.contains("thruway.dev/"));
            // set by hand in the seed, and nobody's of ours
            let ours = ours.filter(|(key, _)| key != "nvidia.com/gpu");
            (name, ours.map(|(key, value)| (key, value.as_str().expect("text").to_owned())).collect::<Labels>())
        };
        self.server.list("Node").iter().map(of).filter(|(_, labels)| !labels.is_empty()).collect()
    }

    async fn until(&self, what: &str, holds: impl Fn(&Cluster) -> bool) {
        let begun = Instant::now();
        while !holds(self) {
            assert!(
                begun.elapsed() < Duration::from_secs(20),
                "{what}: {:?}, {:?}, {:#?}",
                self.placed(),
                self.labels(),
                self.server.calls().iter().rev().take(6).collect::<Vec<_>>()
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn agent(&self, pace: Pace, manager: &'static str, sweeps: Option<&'static str>) -> Link {
        let token = if manager == MANAGER { "agent-mufti-4" } else { "mufti-4" };
        let access = Access { kubeconfig: Some(self.config(token)), context: None };
        let writer = Writer { node: "mufti-4".into(), manager, take: false };
        begin(Task { access, writer, sweeps, pace })
    }
}

/// What the manifests let an account do.
fn rules(objects: &[Value], account: &str) -> Vec<Rule> {
    let role = objects.iter().find(|object| object["kind"] == "ClusterRole" && object["metadata"]["name"] == account);
    let rules = role.and_then(|role| role["rules"].as_array()).expect("a role");
    let texts = |value: &Value| -> Vec<String> {
        value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let rule = |rule: &Value| Rule {
        verbs: texts(&rule["verbs"]),
        group: texts(&rule["apiGroups"]).remove(0),
        resources: texts(&rule["resources"]),
        names: Vec::new(),
    };
    rules.iter().map(rule).collect()
}

fn function(root: &Path, bdf: &str, vendor: &str, device: &str, class: &str, driver: Option<&str>) {
    let at = root.join("sys/bus/pci/devices").join(bdf);
    std::fs::create_dir_all(&at).expect("a function");
    let put = |name: &str, text: String| std::fs::write(at.join(name), text).expect("a file");
    put("vendor", format!("0x{vendor}\n"));
    put("device", format!("0x{device}\n"));
    put("subsystem_vendor", "0x1043\n".into());
    put("subsystem_device", "0x85f4\n".into());
    put("class", format!("0x{class}\n"));
    put("revision", "0xa1\n".into());
    bind(root, bdf, driver);
}

/// The function at that driver from now on.
fn bind(root: &Path, bdf: &str, driver: Option<&str>) {
    let link = root.join("sys/bus/pci/devices").join(bdf).join("driver");
    let beside = link.with_extension("new");
    match driver {
        Some(driver) => {
            std::os::unix::fs::symlink(format!("../../../../bus/pci/drivers/{driver}"), &beside).expect("a link");
            std::fs::rename(&beside, &link).expect("bound");
        }
        None => drop(std::fs::remove_file(&link)),
    }
}

/// What the agent wants on the node whose tree this is; `answers`: NVML does, for the card.
fn wish(root: &Path, answers: bool) -> Labels {
    let machine = Root::tree(root).expect("a tree");
    let nvml = match answers {
        false => Seen::Absent,
        true => {
            let mut gpu = NvmlGpu::blank(0);
            gpu.bus_id = Seen::Is("00000000:26:00.0".into());
            gpu.name = Seen::Is("NVIDIA GeForce GT 1030".into());
            gpu.uuid = Seen::Is("GPU-00000000-0000-4000-8000-000000001030".into());
            gpu.minor = Seen::Is(0);
            gpu.memory_total = Seen::Is(2 << 30);
            gpu.compute_capability = Seen::Is((6, 1));
            let version = |text: &str| Seen::Is(text.to_owned());
            Seen::Is(NvmlReport {
                driver_version: version("580.95.05"),
                nvml_version: version("13.580.95.05"),
                cuda_version: Seen::Is((13, 0)),
                confidential: Seen::Absent,
                gpus: vec![gpu],
            })
        }
    };
    let inventory = gpu::observe_with(&machine, nvml);
    let found = kube::plugin::found::look(&machine, &inventory);
    wanted(&machine, &inventory, &found, &Config::default())
}

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(test);
}

#[test]
fn lands_on_the_node_with_the_card_and_leaves_with_it() {
    run(async {
        let mut cluster = Cluster::new();
        assert_eq!(cluster.placed(), (0, Vec::new()), "DESIRED 4 was the seed's pain; here nothing is known yet");
        let everywhere = cluster.server.get("DaemonSet", "thruway", Placement::DISCOVER).expect("discovery");
        assert_eq!(
            everywhere["status"]["desiredNumberScheduled"], 4,
            "discovery is on every node, the control plane too"
        );
        cluster.discover();
        cluster.until("DESIRED 1", |cluster| cluster.placed() == (1, vec!["mufti-4".into()])).await;
        let just = |cluster: &Cluster| {
            cluster.labels() == [("mufti-4".to_owned(), [(PCI_PRESENT.to_owned(), "true".to_owned())].into())]
        };
        assert!(just(&cluster), "{:?}", cluster.labels());

        // the agent's pod begins there; without a driver that answers nothing says that a GPU works
        let mut link = cluster.agent(Pace::default(), MANAGER, None);
        let root = cluster.root("mufti-4");
        link.labels.send_replace(Some(wish(&root, false)));
        link.state.wait_for(|state| state.settled).await.expect("settled");
        assert!(just(&cluster), "{:?}", cluster.labels());
        link.labels.send_replace(Some(wish(&root, true)));
        let has =
            |cluster: &Cluster, key: &str| cluster.labels().iter().find_map(|(_, labels)| labels.get(key).cloned());
        cluster.until("labels", |cluster| has(cluster, "nvidia.com/gpu.present").as_deref() == Some("true")).await;
        assert_eq!(has(&cluster, "nvidia.com/gpu.product").as_deref(), Some("NVIDIA-GeForce-GT-1030"));
        assert_eq!(has(&cluster, "nvidia.com/gpu.count").as_deref(), Some("1"));
        assert_eq!(cluster.labels().len(), 1, "there and only there: {:?}", cluster.labels());
        for number in 1..=3 {
            assert_eq!(wish(&cluster.root(&format!("mufti-{number}")), true), Labels::new(), "no card, no label");
        }

        // the card goes to a VM: labels go, the pod goes, nothing is left behind
        bind(&root, CARD, Some("vfio-pci"));
        link.labels.send_replace(Some(wish(&root, false)));
        cluster.until("taken back", |cluster| cluster.placed() == (0, Vec::new()) && cluster.labels().is_empty()).await;
        // and comes back
        bind(&root, CARD, Some("nvidia"));
        link.labels.send_replace(Some(wish(&root, true)));
        cluster
            .until("back again", |cluster| {
                cluster.placed() == (1, vec!["mufti-4".into()]) && has(cluster, "nvidia.com/gpu.present").is_some()
            })
            .await;
        // promised to a VM by the ledger, while the driver still holds it
        let promise = json!({
            "form": 1, "name": "GT 1030", "to": "vm:100",
            "gpu": {"bdf": CARD, "id": "10de:1d01", "subsystem": "1043:85f4", "uuid": null},
        });
        let ledger = root.join(journal::ledger::DIR.trim_start_matches('/'));
        std::fs::create_dir_all(&ledger).expect("a directory");
        std::fs::write(ledger.join(format!("{CARD}.json")), promise.to_string()).expect("a promise");
        link.labels.send_replace(Some(wish(&root, true)));
        cluster
            .until("promised away", |cluster| cluster.placed() == (0, Vec::new()) && cluster.labels().is_empty())
            .await;
        // what others have set is as it was
        let node = cluster.server.get("Node", "", "mufti-4").expect("the node");
        assert_eq!(node["metadata"]["labels"]["nvidia.com/gpu"], "dedicated");
    });
}

#[test]
fn labels_of_an_agent_that_died_are_swept() {
    run(async {
        let cluster = Cluster::new();
        let mut agent = cluster.agent(Pace::default(), MANAGER, None);
        agent.labels.send_replace(Some(wish(&cluster.root("mufti-4"), true)));
        agent.state.wait_for(|state| state.settled).await.expect("settled");
        assert_eq!(cluster.labels().len(), 1);
        drop(agent);
        let pace = Pace { sweep: Duration::from_millis(300), ..Pace::default() };
        let discovery = cluster.agent(pace, "thruway-discover", Some(MANAGER));
        // while a card is there, the agent's labels are the agent's matter
        discovery.labels.send_replace(Some([(PCI_PRESENT.to_owned(), "true".to_owned())].into()));
        tokio::time::sleep(Duration::from_millis(800)).await;
        assert!(cluster.labels()[0].1.contains_key("nvidia.com/gpu.present"));
        discovery.labels.send_replace(Some(Labels::new()));
        cluster.until("swept", |cluster| cluster.labels().is_empty()).await;
    });
}

#[test]
fn cordons_by_the_annotation_and_survives_the_api() {
    run(async {
        let cluster = Cluster::new();
        let pace = Pace { first: Duration::from_millis(20), most: Duration::from_millis(200), ..Pace::default() };
        let mut link = cluster.agent(pace, MANAGER, None);
        let labels: Labels = [("nvidia.com/gpu.present".to_owned(), "true".to_owned())].into();
        link.labels.send_replace(Some(labels));
        link.state.wait_for(|state| state.settled).await.expect("settled");
        let api: Api = Access { kubeconfig: Some(cluster.config("agent-mufti-4")), context: None }
            .connect()
            .await
            .expect("a client");
        let gpus = ["GPU-ab-1".to_owned(), "0000:26:00.0".to_owned()];
        node::cli::cordon::annotate(&api, "mufti-4", &gpus, true).await.expect("cordoned");
        link.cordoned.wait_for(|cordoned| cordoned.len() == 2).await.expect("heard");
        // an outage: what is wished meanwhile is set when it is over
        cluster.server.down(true);
        link.state.wait_for(|state| state.trouble.is_some()).await.expect("trouble");
        link.labels.send_replace(Some(Labels::new()));
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!(cluster.labels().len(), 1);
        cluster.server.down(false);
        cluster.until("set after the outage", |cluster| cluster.labels().is_empty()).await;
        assert_eq!(link.cordoned.borrow().len(), 2, "an outage is no uncordon");
        // a forgotten version, a server that fails and one that asks for patience
        cluster.server.forget();
        cluster.server.broken(2);
        cluster.server.busy(1, 0);
        node_uncordon(&api, &gpus).await;
        link.cordoned.wait_for(|cordoned| cordoned.is_empty()).await.expect("uncordoned");
    });
}

async fn node_uncordon(api: &Api, gpus: &[String]) {
    for _ in 0..20 {
        if node::cli::cordon::annotate(api, "mufti-4", gpus, false).await.is_ok() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("never uncordoned");
}
