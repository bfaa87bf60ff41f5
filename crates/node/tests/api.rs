//! The API's client against the simulated server, over TLS: what it asks, what it makes of refusals, what is bounded.
#![allow(clippy::disallowed_methods, clippy::panic, reason = "writes kubeconfigs below a temporary directory")]

use std::time::Duration;

use node::api::{Access, Api, Changed, Error, Held, How, Kind, Object, Part, Select};
use serde_json::{Value, json};
use simkube::api::{Account, Options, Rule, Server};

fn server(options: Options) -> Server {
    let nodes = Rule::new(&["get", "list", "watch", "patch"], "", &["nodes"]);
    let accounts = vec![
        Account::admin("admin"),
        Account::pod("node-4", "thruway", "node", "mufti-4", vec![nodes]),
        Account::kubelet("kubelet-4", "mufti-4"),
    ];
    let server = Server::start(accounts, options).expect("a server");
    for name in ["mufti-1", "mufti-4"] {
        let labels = json!({"kubernetes.io/hostname": name, "kubernetes.io/os": "linux"});
        server.put(
            "kubelet",
            json!({
                "apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}, "spec": {},
                "status": {"allocatable": {"cpu": "4"}, "conditions": [{"type": "Ready", "status": "True"}]},
            }),
        );
    }
    server
}

async fn client(server: &Server, token: &str) -> Api {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("config");
    std::fs::write(&path, server.kubeconfig(token)).expect("a kubeconfig");
    Access { kubeconfig: Some(path), context: None }.connect().await.expect("a client")
}

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(test);
}

fn labels(name: &str, labels: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}})
}

fn label(server: &Server, node: &str, key: &str) -> Option<String> {
    let node = server.get("Node", "", node)?;
    node.get("metadata")?.get("labels")?.get(key)?.as_str().map(str::to_owned)
}

#[test]
fn reads_whole_objects_their_metadata_and_pages() {
    run(async {
        let server = server(Options::default());
        let api = client(&server, "admin").await;
        assert_eq!(api.version().await.expect("a version"), "v1.34.0+simulated");
        let whole = api.get(&Object::node("mufti-4"), Part::Whole).await.expect("a node").expect("it is there");
        assert_eq!(whole["status"]["allocatable"]["cpu"], "4");
        let part = api.get(&Object::node("mufti-4"), Part::Metadata).await.expect("a node").expect("it is there");
        assert_eq!((part["kind"].as_str(), part.get("status")), (Some("PartialObjectMetadata"), None));
        assert_eq!(part["metadata"]["labels"], whole["metadata"]["labels"]);
        assert_eq!(api.get(&Object::node("mufti-9"), Part::Whole).await.expect("an answer"), None);
        for count in 0..1100 {
            let name = format!("m-{count}");
            server.put(
                "x",
                json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": "default"}}),
            );
        }
        let kind = Kind::of("v1", "ConfigMap").expect("a kind");
        server.count_anew();
        let all = api.list(kind, None, &Select::default(), Part::Metadata).await.expect("a list");
        assert_eq!((all.len(), server.calls().len()), (1100, 3), "three pages of 500");
        let some = Select { labels: Some("kubernetes.io/hostname in (mufti-4)".into()), fields: None };
        let found = api.list(Kind::NODE, None, &some, Part::Whole).await.expect("a list");
        assert_eq!(found.len(), 1);
        assert_eq!(found[0]["metadata"]["name"], "mufti-4");
    });
}

#[test]
fn applies_by_field_manager() {
    run(async {
        let server = server(Options::default());
        let api = client(&server, "admin").await;
        let node = Object::node("mufti-4");
        let how = How::by("thruway-node");
        let body = labels("mufti-4", json!({"nvidia.com/gpu.count": "1", "nvidia.com/gpu.present": "true"}));
        // a dry run says what would be and keeps nothing
        let would = api.apply(&node, &body, how.dry()).await.expect("a dry run");
        assert_eq!(would["metadata"]["labels"]["nvidia.com/gpu.count"], "1");
        assert_eq!(label(&server, "mufti-4", "nvidia.com/gpu.count"), None);
        api.apply(&node, &body, how).await.expect("applied");
        assert_eq!(label(&server, "mufti-4", "nvidia.com/gpu.count").as_deref(), Some("1"));
        let before = server.get("Node", "", "mufti-4").expect("the node");
        api.apply(&node, &body, how).await.expect("applied again");
        assert_eq!(server.get("Node", "", "mufti-4").expect("the node"), before, "nothing changed: no new version");
        // another holds a field with another value
        server.patch(
            "kubectl-label",
            "Node",
            "",
            "mufti-4",
            &json!({"metadata": {"labels": {"nvidia.com/gpu.product": "mine"}}}),
        );
        let more = labels("mufti-4", json!({"nvidia.com/gpu.count": "1", "nvidia.com/gpu.product": "T4"}));
        let refused = api.apply(&node, &more, how).await.expect_err("a conflict");
        let held = Held { field: ".metadata.labels.nvidia.com/gpu.product".into(), by: "kubectl-label".into() };
        assert!(matches!(&refused, Error::Held(all) if *all == [held]), "{refused:?}");
        assert!(refused.fix().is_some() && !refused.passes());
        assert_eq!(label(&server, "mufti-4", "nvidia.com/gpu.present").as_deref(), Some("true"), "nothing half-done");
        api.apply(&node, &more, How { force: true, ..how }).await.expect("taken");
        assert_eq!(label(&server, "mufti-4", "nvidia.com/gpu.product").as_deref(), Some("T4"));
        // left out, and nobody else's: gone. The kubelet's stay
        assert_eq!(label(&server, "mufti-4", "nvidia.com/gpu.present"), None);
        api.apply(&node, &labels("mufti-4", json!({})), how).await.expect("nothing wanted");
        assert_eq!(label(&server, "mufti-4", "nvidia.com/gpu.count"), None);
        assert_eq!(label(&server, "mufti-4", "kubernetes.io/os").as_deref(), Some("linux"));
    });
}

#[test]
fn only_the_own_node() {
    run(async {
        let server = server(Options::default());
        let api = client(&server, "node-4").await;
        let how = How::by("thruway-node");
        let body = |name: &str| labels(name, json!({"nvidia.com/gpu.present": "true"}));
        api.apply(&Object::node("mufti-4"), &body("mufti-4"), how).await.expect("its own");
        let other = api.apply(&Object::node("mufti-1"), &body("mufti-1"), how).await.expect_err("not its own");
        assert!(matches!(other, Error::Invalid { code: 422, .. }), "{other:?}");
        let pods = api.list(Kind::POD, None, &Select::default(), Part::Whole).await.expect_err("no right");
        let Error::Forbidden(why) = &pods else { panic!("{pods:?}") };
        assert!(why.contains("cannot list resource \"pods\" in API group \"\" at the cluster scope"), "{why}");
        assert_eq!(label(&server, "mufti-1", "nvidia.com/gpu.present"), None);
        // a kubelet's account is held by NodeRestriction
        let api = client(&server, "kubelet-4").await;
        let bad = labels("mufti-4", json!({"node-restriction.kubernetes.io/gpu": "yes"}));
        let refused = api.apply(&Object::node("mufti-4"), &bad, how).await.expect_err("restricted");
        assert!(
            matches!(&refused, Error::Forbidden(why) if why.contains("is not allowed to modify labels")),
            "{refused:?}"
        );
        let refused = api.apply(&Object::node("mufti-1"), &body("mufti-1"), how).await.expect_err("another's");
        assert!(matches!(&refused, Error::Forbidden(why) if why.contains("not allowed to modify node")), "{refused:?}");
        api.apply(&Object::node("mufti-4"), &body("mufti-4"), how).await.expect("its own");
    });
}

#[test]
fn what_is_wrong_has_a_name_and_a_fix() {
    run(async {
        let server = server(Options::default());
        let api = client(&server, "admin").await;
        let node = Object::node("mufti-4");
        let how = How::by("t");
        let long = labels("mufti-4", json!({"a": "x".repeat(64)}));
        let error = api.apply(&node, &long, how).await.expect_err("too long");
        assert!(
            matches!(&error, Error::Invalid { code: 422, message } if message.contains("63 characters")),
            "{error:?}"
        );
        let stale = json!({"metadata": {"resourceVersion": "1", "labels": {"a": "b"}}});
        let error = api.merge(&node, &stale, how).await.expect_err("a conflict");
        assert!(matches!(error, Error::Conflict(_)), "{error:?}");
        server.busy(1, 7);
        let error = api.get(&node, Part::Whole).await.expect_err("busy");
        assert!(matches!(error, Error::Busy { wait, .. } if wait == Duration::from_secs(7)) && error.passes());
        server.broken(1);
        let error = api.get(&node, Part::Whole).await.expect_err("broken");
        assert!(matches!(error, Error::Server { code: 500, .. }) && error.passes());
        let stranger = client(&server, "nobody").await;
        let error = stranger.get(&node, Part::Whole).await.expect_err("a stranger");
        assert!(matches!(error, Error::Unauthorized(_)) && error.fix().is_some());
        let error = api.get(&Object::node("../pods"), Part::Whole).await.expect_err("no name");
        assert!(matches!(error, Error::Asked(_)), "{error:?}");
        server.slow(Duration::from_millis(400));
        let hasty = api.clone().within(Duration::from_millis(50));
        let error = hasty.get(&node, Part::Whole).await.expect_err("slow");
        assert!(matches!(error, Error::Slow(_)) && error.passes(), "{error:?}");
        server.slow(Duration::ZERO);
        server.down(true);
        let error = api.get(&node, Part::Whole).await.expect_err("down");
        assert!(matches!(error, Error::Unreachable(_)) && error.passes() && error.fix().is_some(), "{error:?}");
        drop(server);
        let error = api.get(&node, Part::Whole).await.expect_err("gone");
        assert!(error.to_string().contains("Connection refused"), "{error}");
    });
}

#[test]
fn watches_from_a_version_to_its_end_or_its_loss() {
    run(async {
        let server = server(Options { speed: 10, ..Options::default() });
        let api = client(&server, "node-4").await;
        let own = Select { fields: Some("metadata.name=mufti-4".into()), labels: None };
        let now = api.get(&Object::node("mufti-4"), Part::Metadata).await.expect("a node").expect("it is there");
        let version = now["metadata"]["resourceVersion"].as_str().expect("a version").to_owned();
        let begin = |version: String| {
            let (api, own) = (api.clone(), own.clone());
            async move { api.watch(Kind::NODE, None, &own, &version, Duration::from_secs(10), Part::Metadata).await }
        };
        let mut watch = begin(version.clone()).await.expect("a watch");
        server.patch("x", "Node", "", "mufti-1", &json!({"metadata": {"labels": {"other": "node"}}}));
        server.patch(
            "x",
            "Node",
            "",
            "mufti-4",
            &json!({"metadata": {"annotations": {"thruway.dev/cordon": "GPU-1"}}}),
        );
        let Some(Changed::Is(node)) = watch.next().await.expect("a change") else { panic!("no change") };
        assert_eq!(node["metadata"]["name"], "mufti-4");
        assert_eq!(node["metadata"]["annotations"]["thruway.dev/cordon"], "GPU-1");
        // at its end the server says up to where it came
        let Some(Changed::Mark(mark)) = watch.next().await.expect("a bookmark") else { panic!("no bookmark") };
        assert!(mark.parse::<u64>().expect("a number") > version.parse().expect("a number"));
        assert_eq!(watch.next().await.expect("the end"), None);
        server.patch("x", "Node", "", "mufti-4", &json!({"metadata": {"labels": {"a": "b"}}}));
        server.forget();
        let error = begin(mark).await.err().expect("too old");
        assert!(matches!(error, Error::Gone(_)) && error.passes(), "{error:?}");
        // a connection that breaks is no end
        let now = server.get("Node", "", "mufti-4").expect("the node");
        let version = now["metadata"]["resourceVersion"].as_str().expect("a version").to_owned();
        let mut watch = begin(version).await.expect("a watch");
        server.down(true);
        let broken = watch.next().await;
        assert!(matches!(broken, Err(Error::Unreachable(_))), "{broken:?}");
    });
}

#[test]
fn no_way_is_said_with_what_was_tried() {
    run(async {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("config");
        let error = Access { kubeconfig: Some(path.clone()), context: None }.connect().await.err().expect("no file");
        assert!(matches!(&error, Error::Access(why) if why.contains("config")), "{error:?}");
        std::fs::write(&path, "clusters: [").expect("a file");
        let error = Access { kubeconfig: Some(path), context: None }.connect().await.err().expect("no YAML");
        assert!(matches!(&error, Error::Access(_)) && error.fix().is_some(), "{error:?}");
    });
}
