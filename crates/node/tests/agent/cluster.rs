//! The agent with an API beside it: labels once the driver has answered, the annotation's cordon at the kubelet, Events, and what
//! it weighs then.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use simkube::api::{Account, Options, Rule, Server};

use crate::world::{GPU, LONG, QUICK, World, run};

fn server() -> Server {
    let rules = vec![
        Rule::new(&["get", "list", "watch", "patch"], "", &["nodes"]),
        Rule::new(&["create"], "events.k8s.io", &["events"]),
    ];
    let server = Server::start(vec![Account::pod("agent", "thruway", "node", "gpu-1", rules)], Options::default());
    let server = server.expect("a server");
    let node = json!({
        "apiVersion": "v1", "kind": "Node", "spec": {}, "status": {},
        "metadata": {"name": "gpu-1", "labels": {"kubernetes.io/os": "linux"}},
    });
    server.put("kubelet", node);
    server
}

fn labels(server: &Server) -> serde_json::Map<String, Value> {
    let node = server.get("Node", "", "gpu-1").expect("the node");
    node["metadata"]["labels"].as_object().expect("labels").clone()
}

async fn until(what: &str, world: &World, holds: impl Fn() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < LONG, "{what}: {}", world.said());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Resident KiB of a process, and at most so far.
fn resident(pid: u32) -> (u64, u64) {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let of = |key: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_default();
        line.trim_start_matches(':').trim().trim_end_matches(" kB").parse().unwrap_or(0)
    };
    (of("VmRSS"), of("VmHWM"))
}

#[test]
fn with_an_api_beside_it() {
    run(async {
        let server = server();
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("kubeconfig");
        std::fs::write(&path, server.kubeconfig("agent")).expect("writes");
        let path = path.display().to_string();
        let arguments = ["--kubeconfig", path.as_str(), "--node-name", "gpu-1", "--audit", "1"];
        let Some(mut world) = World::new("h100x8", QUICK, &arguments).await else { return };
        world.start();
        world.well().await;
        until("labels", &world, || labels(&server).contains_key("nvidia.com/gpu.present")).await;
        let now = labels(&server);
        assert_eq!(
            (now["nvidia.com/gpu.count"].as_str(), now["nvidia.com/gpu.family"].as_str()),
            (Some("8"), Some("hopper"))
        );
        assert!(
            !now.contains_key("nvidia.com/gfd.timestamp"),
            "a label that every start changes is sent at every start"
        );

        // a cordon by the annotation: the kubelet sees it, and sees it go
        let listed = world.kubelet.resource(GPU).expect("the resource");
        let uuid = listed.healthy().into_iter().next().expect("a device");
        let annotate = |value: Value| {
            server.patch(
                "kubectl",
                "Node",
                "",
                "gpu-1",
                &json!({"metadata": {"annotations": {"thruway.dev/cordon": value}}}),
            )
        };
        assert!(annotate(Value::from(uuid.as_str())));
        assert!(
            world.kubelet.until(GPU, LONG, |it| it.counts().1 == 7 && !it.healthy().contains(&uuid)).await,
            "{}",
            world.said()
        );
        // an outage is no uncordon
        server.down(true);
        tokio::time::sleep(Duration::from_millis(700)).await;
        assert_eq!(world.kubelet.resource(GPU).expect("the resource").counts().1, 7, "{}", world.said());
        server.down(false);
        assert!(annotate(Value::Null));
        assert!(world.kubelet.until(GPU, LONG, |it| it.counts() == (8, 8)).await, "{}", world.said());

        // a process of a pod that has a card open which nobody gave it
        let uid = "11111111-2222-4333-8444-555555555555";
        let process = world.at("/proc/4242");
        std::fs::create_dir_all(process.join("fd")).expect("a process");
        let scope = format!("cri-containerd-{}.scope", "a".repeat(64));
        let slice = format!("kubepods-besteffort-pod{}.slice", uid.replace('-', "_"));
        let cgroup = format!("0::/kubepods.slice/kubepods-besteffort.slice/{slice}/{scope}\n");
        std::fs::write(process.join("cgroup"), cgroup).expect("writes");
        std::fs::write(process.join("comm"), "ffmpeg\n").expect("writes");
        std::fs::write(process.join("stat"), format!("4242 (ffmpeg) S{}\n", " 1".repeat(40))).expect("writes");
        std::os::unix::fs::symlink("/dev/nvidia2", process.join("fd/9")).expect("a link");
        std::fs::create_dir_all(world.at(&format!("/var/log/pods/default_jellyfin-1_{uid}"))).expect("a log");
        let without = |server: &Server| {
            let is = |event: &Value| event["reason"] == "GpuWithoutGrant" && event["regarding"]["name"] == "jellyfin-1";
            server.list("Event").iter().filter(|event| is(event)).count()
        };
        until("an Event of the pod", &world, || without(&server) == 1).await;
        tokio::time::sleep(Duration::from_millis(1100)).await;
        assert_eq!(without(&server), 1, "once an hour");

        // a card that falls off the bus is told of
        tokio::time::sleep(Duration::from_millis(600)).await;
        world.control("[[gpus]]\nindex = 3\nxids = [79]\nlost = true\n");
        assert!(world.kubelet.until(GPU, LONG, |it| it.counts().1 == 7).await, "{}", world.said());
        let told = |server: &Server| {
            let about = |event: &Value| event["regarding"]["kind"] == "Node" && event["type"] == "Warning";
            // by the Xid or by the look, whichever comes first; the other is then no news
            let says = |note: &str| note.contains("79") || note.contains("fallen off the bus");
            server.list("Event").into_iter().any(|event| about(&event) && event["note"].as_str().is_some_and(says))
        };
        until("an Event", &world, || told(&server)).await;
        world.control("");
        assert!(world.kubelet.until(GPU, LONG, |it| it.counts() == (8, 8)).await, "{}", world.said());
        assert_eq!(labels(&server)["nvidia.com/gpu.count"], "8");

        let (now, most) = resident(world.agent.as_ref().expect("runs").id());
        println!("with the API's client: {now} KiB resident, {most} KiB at most");

        // its end is no end of its labels: an upgrade comes next
        assert!(world.end(rustix::process::Signal::TERM).await.success());
        assert!(labels(&server).contains_key("nvidia.com/gpu.present"));
        // and the next one sends nothing, since all is as it was
        server.count_anew();
        world.start();
        world.well().await;
        until("a watch", &world, || server.calls().iter().any(|call| call.path.contains("watch=true"))).await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        let writes: Vec<_> = server.calls().into_iter().filter(|call| call.method == "PATCH").collect();
        assert!(writes.is_empty(), "{writes:?}");
    });
}
