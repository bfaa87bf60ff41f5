use std::sync::Mutex;

use machine::{Answer, Kind, KubeList, Memory, Question, Stat};
use serde_json::json;

use super::*;

const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
const OUTER: &str = "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff";
const UID: &str = "8f1e5a2c-1111-4222-8333-444455556666";

/// A process 77 and files, as whoever runs here has them.
fn machine(cgroup: &str, arguments: &[&str], files: &[(&str, String)]) -> Memory {
    let mut memory = Memory::new("a machine");
    process(&mut memory, 77, 1, cgroup, arguments, "77");
    for (path, text) in files {
        memory.insert_file(path, text.as_bytes());
    }
    memory
}

fn process(memory: &mut Memory, pid: u32, parent: u32, cgroup: &str, arguments: &[&str], numbers: &str) {
    let name = arguments.first().map_or("x", |first| first.rsplit('/').next().unwrap_or_default());
    let zeros = "0 ".repeat(17);
    memory.insert_file(&format!("/proc/{pid}/stat"), format!("{pid} ({name}) S {parent} {zeros}5000 9\n").as_bytes());
    memory.insert_file(&format!("/proc/{pid}/comm"), format!("{name}\n").as_bytes());
    memory.insert_file(&format!("/proc/{pid}/cmdline"), (arguments.join("\0") + "\0").as_bytes());
    let status = format!("Name:\t{name}\nPPid:\t{parent}\nUid:\t1000\t1000\t1000\t1000\nNSpid:\t{numbers}\n");
    memory.insert_file(&format!("/proc/{pid}/status"), status.as_bytes());
    memory.insert_file(&format!("/proc/{pid}/cgroup"), format!("0::{cgroup}\n").as_bytes());
}

fn whose(memory: &Memory) -> Attribution {
    Attributor::new().look(memory, &[77]).remove(0)
}

fn docker(name: &str, image: &str) -> String {
    json!({ "ID": ID, "Name": format!("/{name}"), "Config": { "Image": image, "Labels": {} } }).to_string()
}

fn text(seen: Option<&str>) -> Option<String> {
    seen.map(str::to_owned)
}

fn container(engine: Engine, name: Option<&str>, image: Option<&str>, user: Option<u32>) -> OwnedBy {
    OwnedBy::Container { engine, id: ID.into(), name: text(name), image: text(image), user }
}

const CONFIG: &str = "config.v2.json";

#[test]
fn docker_is_named_by_its_files_wherever_they_are() {
    let scope = format!("/system.slice/docker-{ID}.scope");
    let file = docker("films", "jellyfin/jellyfin:10.11");
    let usual = [(&*format!("/var/lib/docker/containers/{ID}/{CONFIG}"), file.clone())];
    let found = whose(&machine(&scope, &["/jellyfin/jellyfin"], &usual));
    assert_eq!(found.owner, container(Engine::Docker, Some("films"), Some("jellyfin/jellyfin:10.11"), None));
    assert_eq!((found.app.as_deref(), &found.command), (Some("jellyfin"), &Seen::Is("jellyfin".into())));
    assert_eq!((found.pid, found.user, found.outer), (77, Seen::Is(1000), None));
    // elsewhere, by daemon.json
    let moved = [
        (&*format!("/tank/docker/containers/{ID}/{CONFIG}"), file.clone()),
        ("/etc/docker/daemon.json", r#"{"data-root": "/tank/docker"}"#.into()),
    ];
    assert_eq!(whose(&machine(&scope, &["x"], &moved)).owner.label(), "films");
    // a user's own
    let own = [
        (&*format!("/home/ann/.local/share/docker/containers/{ID}/{CONFIG}"), file),
        ("/etc/passwd", "root:x:0:0::/root:/bin/sh\nann:x:1000:1000::/home/ann:/bin/sh\n".into()),
    ];
    let path = format!("/user.slice/user-1000.slice/user@1000.service/app.slice/docker-{ID}.scope");
    let owner = whose(&machine(&path, &["x"], &own)).owner;
    assert_eq!(owner, container(Engine::Docker, Some("films"), Some("jellyfin/jellyfin:10.11"), Some(1000)));
    // by nobody: the id, and the path's word for the engine
    let owner = whose(&machine(&scope, &["x"], &[])).owner;
    assert_eq!(owner, container(Engine::Docker, None, None, None));
    assert_eq!(owner.label(), "0123456789ab");
}

fn storage(name: &str, metadata: serde_json::Value) -> String {
    json!([{ "id": ID, "names": [name], "metadata": metadata.to_string() }]).to_string()
}

#[test]
fn podman_is_named_for_root_and_for_users_with_and_without_cgroups() {
    let list = storage("films", json!({ "image-name": "docker.io/jellyfin/jellyfin:latest", "name": "films" }));
    let named = |user| container(Engine::Podman, Some("films"), Some("docker.io/jellyfin/jellyfin:latest"), user);
    for driver in ["overlay", "vfs"] {
        let path = format!("/var/lib/containers/storage/{driver}-containers/containers.json");
        let found =
            whose(&machine(&format!("/machine.slice/libpod-{ID}.scope/container"), &["x"], &[(&path, list.clone())]));
        assert_eq!(found.owner, named(None));
        assert_eq!(found.app.as_deref(), Some("jellyfin"));
    }
    let moved = [
        ("/etc/containers/storage.conf", "[storage]\ngraphroot = \"/tank/pods\"\n".to_owned()),
        ("/tank/pods/overlay-containers/volatile-containers.json", list.clone()),
    ];
    let quadlet = format!("/system.slice/films.service/libpod-payload-{ID}");
    assert_eq!(whose(&machine(&quadlet, &["x"], &moved)).owner, named(None));
    let own = [
        ("/etc/passwd", "ann:x:1000:1000::/home/ann/:/bin/sh\n".to_owned()),
        ("/home/ann/.local/share/containers/storage/overlay-containers/containers.json", list),
    ];
    let rootless = format!("/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{ID}.scope/container");
    assert_eq!(whose(&machine(&rootless, &["x"], &own)).owner, named(Some(1000)));
    // version 1 gives a user's engine no cgroup: conmon knows
    let mut memory = machine("/", &["/jellyfin/jellyfin"], &own);
    process(&mut memory, 77, 60, "/", &["/jellyfin/jellyfin"], "77 1");
    process(
        &mut memory,
        60,
        1,
        "/",
        &["/usr/bin/conmon", "--api-version", "1", "-c", ID, "--exit-command", "/usr/bin/podman"],
        "60",
    );
    assert_eq!(whose(&memory).owner, named(Some(1000)));
    // and who is in no namespace of his own has not one among his parents that counts
    process(&mut memory, 77, 60, "/", &["/jellyfin/jellyfin"], "77");
    assert_eq!(whose(&memory).owner, OwnedBy::Process);
}

fn bundle(annotations: serde_json::Value) -> String {
    json!({ "ociVersion": "1.0.2", "annotations": annotations }).to_string()
}

fn pod(namespace: Option<&str>, pod: Option<&str>, container: Option<&str>) -> OwnedBy {
    let (namespace, pod, container) = (text(namespace), text(pod), text(container));
    OwnedBy::Pod { uid: UID.into(), namespace, pod, container, id: Some(ID.into()) }
}

#[test]
fn pods_are_named_by_whatever_of_the_node_knows_them() {
    let under = UID.replace('-', "_");
    let slice = format!("/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{under}.slice");
    let scope = format!("{slice}/cri-containerd-{ID}.scope");
    let whole = pod(Some("media"), Some("jellyfin-0"), Some("server"));
    let cri = bundle(json!({
        "io.kubernetes.cri.sandbox-namespace": "media", "io.kubernetes.cri.sandbox-name": "jellyfin-0",
        "io.kubernetes.cri.sandbox-uid": UID, "io.kubernetes.cri.container-name": "server",
        "io.kubernetes.cri.image-name": "docker.io/jellyfin/jellyfin:latest",
    }));
    for root in ["/run/containerd", "/run/k3s/containerd"] {
        let file = format!("{root}/io.containerd.runtime.v2.task/k8s.io/{ID}/config.json");
        let found = whose(&machine(&scope, &["x"], &[(&file, cri.clone())]));
        assert_eq!((found.owner, found.app.as_deref()), (whole.clone(), Some("jellyfin")));
    }
    let link = format!("/var/log/containers/jellyfin-0_media_server-{ID}.log");
    assert_eq!(whose(&machine(&scope, &["x"], &[(&link, String::new())])).owner, whole);
    let crio = bundle(json!({
        "io.kubernetes.pod.namespace": "media", "io.kubernetes.pod.name": "jellyfin-0", "io.kubernetes.pod.uid": UID,
        "io.kubernetes.container.name": "server", "io.kubernetes.cri-o.ImageName": "docker.io/jellyfin/jellyfin:latest",
    }));
    let file = format!("/run/containers/storage/overlay-containers/{ID}/userdata/config.json");
    assert_eq!(whose(&machine(&format!("{slice}/crio-{ID}.scope"), &["x"], &[(&file, crio)])).owner, whole);
    let name = format!("k8s_server_jellyfin-0_media_{UID}_0");
    let list = storage(&name, json!({ "pod-name": "x", "image-name": "docker.io/jellyfin/jellyfin:latest" }));
    let file = "/var/lib/containers/storage/overlay-containers/containers.json";
    assert_eq!(whose(&machine(&format!("{slice}/crio-{ID}.scope"), &["x"], &[(file, list)])).owner, whole);
    // cri-dockerd, by docker's labels; also where the path does not tell the pod
    let labels = json!({
        "io.kubernetes.pod.namespace": "media", "io.kubernetes.pod.name": "jellyfin-0", "io.kubernetes.pod.uid": UID,
        "io.kubernetes.container.name": "server",
    });
    let config = json!({ "Name": "/k8s_server_x", "Config": { "Image": "sha256:1", "Labels": labels } }).to_string();
    let file = format!("/var/lib/docker/containers/{ID}/{CONFIG}");
    for path in [format!("{slice}/docker-{ID}.scope"), format!("/docker/{ID}")] {
        assert_eq!(whose(&machine(&path, &["x"], &[(&file, config.clone())])).owner, whole);
    }
    // the log directory knows no container, the API may
    let logs = format!("/var/log/pods/media_jellyfin-0_{UID}/server/0.log");
    let half = pod(Some("media"), Some("jellyfin-0"), None);
    assert_eq!(whose(&machine(&scope, &["x"], &[(&logs, String::new())])).owner, half);
    let mut memory = machine(&scope, &["x"], &[]);
    assert_eq!(whose(&memory).owner, pod(None, None, None));
    assert_eq!(whose(&memory).owner.label(), format!("with UID {UID}"));
    let pods = json!({ "items": [{
        "metadata": { "namespace": "media", "name": "jellyfin-0", "uid": UID },
        "status": { "containerStatuses": [{ "name": "server", "containerID": format!("containerd://{ID}") }] },
    }] });
    memory.insert_answer(Question::Kube(KubeList::Pods), Seen::Is(Answer::Json(pods)));
    assert_eq!(whose(&memory).owner, whole);
}

#[test]
fn a_static_pods_hash_is_its_mirrors_annotation() {
    let hash = UID.replace('-', "");
    let mut memory = machine(&format!("/kubepods/burstable/pod{hash}/{ID}"), &["x"], &[]);
    let pods = json!({ "items": [{ "metadata": {
        "namespace": "media", "name": "static-n1", "uid": UID, "annotations": { "kubernetes.io/config.hash": hash },
    } }] });
    memory.insert_answer(Question::Kube(KubeList::Pods), Seen::Is(Answer::Json(pods)));
    assert_eq!(whose(&memory).owner.label(), "media/static-n1");
}

#[test]
fn containerd_without_kubernetes_goes_by_ids_that_people_chose() {
    let task = |id: &str| format!("/run/containerd/io.containerd.runtime.v2.task/films/{id}/config.json");
    let found = whose(&machine("/films/server", &["x"], &[(&task("server"), bundle(json!({})))])).owner;
    let (name, image) = (Some("server".to_owned()), None);
    assert_eq!(found, OwnedBy::Container { engine: Engine::Containerd, id: "server".into(), name, image, user: None });
    // a cgroup of that form that no containerd knows is nothing's
    assert_eq!(whose(&machine("/films/server", &["x"], &[])).owner, OwnedBy::Process);
    let nerdctl = bundle(json!({ "nerdctl/name": "films" }));
    let path = format!("/system.slice/nerdctl-{ID}.scope");
    assert_eq!(
        whose(&machine(&path, &["x"], &[(&task(ID), nerdctl)])).owner,
        container(Engine::Containerd, Some("films"), None, None)
    );
}

#[test]
fn what_was_started_by_runc_or_crun_alone_is_known_by_its_state() {
    for (path, file, user) in [
        ("/by-hand", "/run/runc/by-hand/state.json", None),
        ("/system.slice/runc-by-hand.scope", "/run/runc/by-hand/state.json", None),
        ("/system.slice/crun-by-hand.scope", "/run/crun/by-hand/status", None),
        (
            "/user.slice/user-1000.slice/user@1000.service/user.slice/crun-by-hand.scope",
            "/run/user/1000/crun/by-hand/status",
            Some(1000),
        ),
    ] {
        let (id, name) = ("by-hand".to_owned(), Some("by-hand".to_owned()));
        let owner = whose(&machine(path, &["x"], &[(file, "{}".into())])).owner;
        assert_eq!(owner, OwnedBy::Container { engine: Engine::Unknown, id, name, image: None, user }, "{path}");
        assert_eq!(whose(&machine(path, &["x"], &[])).owner, OwnedBy::Process, "{path}");
    }
}

#[test]
fn what_has_no_cgroup_of_its_own_is_known_by_the_containers_first_process() {
    for (file, text, user) in [
        ("/run/runc/by-hand/state.json", r#"{"id": "by-hand", "init_process_pid": 60}"#, None),
        ("/run/user/1000/crun/by-hand/status", r#"{"pid": 60}"#, Some(1000)),
    ] {
        let mut memory = machine("/", &["x"], &[(file, text.into())]);
        process(&mut memory, 77, 60, "/", &["x"], "77 9");
        process(&mut memory, 60, 1, "/", &["init"], "60 1");
        let (id, name) = ("by-hand".to_owned(), Some("by-hand".to_owned()));
        assert_eq!(whose(&memory).owner, OwnedBy::Container { engine: Engine::Unknown, id, name, image: None, user });
    }
}

#[test]
fn system_containers_have_titles_and_stay_around_what_runs_in_them() {
    let config = ("/etc/pve/lxc/105.conf", "arch: amd64\nhostname: media\n[before]\nhostname: old\n".to_owned());
    let ct = || OwnedBy::System { name: "105".into(), title: Some("media".into()) };
    let found = whose(&machine(
        "/lxc/105/ns/system.slice/jellyfin.service",
        &["/usr/lib/jellyfin-ffmpeg/ffmpeg"],
        std::slice::from_ref(&config),
    ));
    assert_eq!((found.owner.clone(), found.outer, found.app.as_deref()), (ct(), None, Some("jellyfin")));
    assert_eq!(found.owner.label(), "CT 105 (media)");
    let found = whose(&machine(&format!("/lxc/105/ns/docker/{ID}"), &["x"], &[config]));
    assert_eq!((found.owner, found.outer), (container(Engine::Docker, None, None, None), Some(ct())));
    // a node that is itself a container: the pod counts
    let path = format!(
        "/docker/{OUTER}/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod{UID}.slice/cri-containerd-{ID}.scope"
    );
    let outer = (&*format!("/var/lib/docker/containers/{OUTER}/{CONFIG}"), docker("kind-worker", "kindest/node:v1.33"));
    let found = whose(&machine(&path, &["x"], &[outer]));
    assert!(matches!(&found.owner, OwnedBy::Pod { uid, .. } if uid == UID));
    assert_eq!(found.outer.map(|outer| outer.label()).as_deref(), Some("kind-worker"));
}

#[test]
fn a_vms_process_is_its_vms() {
    let vm = |id: &str, name: Option<&str>| OwnedBy::Vm { id: id.into(), name: text(name) };
    let pve = ["/usr/bin/kvm", "-id", "100", "-name", "media,debug-threads=on"];
    assert_eq!(whose(&machine("/qemu.slice/100.scope", &pve, &[])).owner, vm("100", Some("media")));
    // its command line hidden: the node's configuration
    let config = ("/etc/pve/qemu-server/100.conf", "name: media\n".to_owned());
    let found = whose(&machine("/qemu.slice/100.scope", &[], &[config])).owner;
    assert_eq!((found.label().as_str(), found), ("100 (media)", vm("100", Some("media"))));
    let libvirt = ["/usr/bin/qemu-system-x86_64", "-name", "guest=media-box,debug-threads=on", "-uuid", UID];
    let path = "/machine.slice/machine-qemu\\x2d3\\x2dmedia\\x2dbox.scope/libvirt/emulator";
    let found = whose(&machine(path, &libvirt, &[])).owner;
    assert_eq!((found.label().as_str(), found), ("media-box", vm(UID, Some("media-box"))));
    assert_eq!(whose(&machine(path, &["x"], &[])).owner, vm("media-box", None));
    // KubeVirt: in a pod, and still a VM
    let path = format!("/kubepods/burstable/pod{UID}/{ID}");
    let found = whose(&machine(&path, &libvirt, &[]));
    assert_eq!(found.owner.label(), "media-box");
    assert!(matches!(found.outer, Some(OwnedBy::Pod { .. })));
    assert_eq!(
        whose(&machine("/user.slice/user-0.slice/session-1.scope", &["qemu-system-x86_64", "-m", "1"], &[])).owner,
        OwnedBy::Process
    );
}

#[test]
fn units_are_the_systems_or_a_users() {
    let unit = |unit: &str, user| OwnedBy::Unit { unit: unit.into(), user };
    let found = whose(&machine("/system.slice/jellyfin.service", &["/usr/bin/jellyfin"], &[]));
    assert_eq!((found.owner, found.app.as_deref()), (unit("jellyfin.service", None), Some("jellyfin")));
    let path = "/user.slice/user-1000.slice/user@1000.service/app.slice/ollama.service";
    assert_eq!(whose(&machine(path, &["x"], &[])).owner, unit("ollama.service", Some(1000)));
}

#[test]
fn who_is_not_there_or_may_not_be_looked_at_is_said_so() {
    let mut memory = Memory::new("a machine");
    memory.insert(
        "/proc",
        machine::Node {
            stat: Stat { kind: machine::FileKind::Dir, mode: 0o555, uid: 0, gid: 0, size: 0, mtime: 0, rdev: None },
            kind: machine::NodeKind::Dir(Seen::Is(Vec::new())),
        },
    );
    let found = whose(&memory);
    assert_eq!((found.command, found.user, found.owner), (Seen::Absent, Seen::Absent, OwnedBy::Process));
}

/// Counts what is read.
struct Counting {
    memory: Memory,
    reads: Mutex<Vec<String>>,
}

impl Machine for Counting {
    fn kind(&self) -> Kind {
        self.memory.kind()
    }
    fn name(&self) -> String {
        self.memory.name()
    }
    fn read(&self, path: &str) -> Seen<Vec<u8>> {
        self.reads.lock().expect("no panic").push(path.to_owned());
        self.memory.read(path)
    }
    fn image(&self, path: &str) -> Seen<Vec<u8>> {
        self.memory.image(path)
    }
    fn list(&self, path: &str) -> Seen<Vec<String>> {
        self.memory.list(path)
    }
    fn stat(&self, path: &str) -> Seen<Stat> {
        self.memory.stat(path)
    }
    fn lstat(&self, path: &str) -> Seen<Stat> {
        self.memory.lstat(path)
    }
    fn link(&self, path: &str) -> Seen<String> {
        self.memory.link(path)
    }
    fn ask(&self, question: &Question) -> Seen<Answer> {
        self.memory.ask(question)
    }
}

#[test]
fn only_new_processes_are_read_and_a_number_that_is_used_again_is_new() {
    let file = format!("/var/lib/docker/containers/{ID}/{CONFIG}");
    let memory = machine(&format!("/docker/{ID}"), &["/bin/a"], &[(&file, docker("films", "a"))]);
    let mut machine = Counting { memory, reads: Mutex::default() };
    let mut attributor = Attributor::new();
    let mut look = |machine: &Counting| {
        machine.reads.lock().expect("no panic").clear();
        let found = attributor.look(machine, &[77]).remove(0);
        let reads = machine.reads.lock().expect("no panic").clone();
        (found, reads)
    };
    let (first, _) = look(&machine);
    let (again, reads) = look(&machine);
    assert_eq!((first, reads), (again, vec!["/proc/77/stat".to_owned()]));
    // the same number, another start
    process(&mut machine.memory, 77, 1, "/system.slice/b.service", &["/bin/a"], "77");
    let stat = format!("77 (a) S 1 {}6000 9\n", "0 ".repeat(17));
    machine.memory.insert_file("/proc/77/stat", stat.as_bytes());
    assert_eq!(look(&machine).0.owner.label(), "b.service");
    // the same process, another program
    process(&mut machine.memory, 77, 1, "/system.slice/b.service", &["/bin/c"], "77");
    machine.memory.insert_file("/proc/77/stat", stat.replace("(a)", "(c)").as_bytes());
    assert_eq!(look(&machine).0.command, Seen::Is("c".into()));
}
