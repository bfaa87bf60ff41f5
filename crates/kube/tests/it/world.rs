//! A machine in memory with a cluster's answers, and a card that works or not.

use gpu::{Card, DriverFacts, Holder, Inventory};
use kube::Facts;
use machine::nvml::{NvmlGpu, NvmlReport};
use machine::{Answer, KubeList, Memory, Question};
use model::{Finding, Identity, KubeOp, Op, PciId, Plan, Reason, Seen, Verdict};
use serde_json::Value;

#[derive(Clone, Copy, PartialEq)]
pub enum Gpu {
    /// No NVIDIA card in this machine.
    None,
    /// A card that nouveau holds.
    Nouveau,
    /// The driver answers.
    Works,
    /// The driver is loaded and NVML could not be asked.
    Hidden,
}

#[derive(Clone)]
pub struct World {
    pub gpu: Gpu,
    pub lists: Vec<(KubeList, Value)>,
}

macro_rules! lists {
    ($prefix:literal) => {
        [
            (KubeList::Nodes, include_str!(concat!("../fixtures/", $prefix, "-nodes.json"))),
            (KubeList::DaemonSets, include_str!(concat!("../fixtures/", $prefix, "-daemonsets.json"))),
            (KubeList::Deployments, include_str!(concat!("../fixtures/", $prefix, "-deployments.json"))),
            (KubeList::Pods, include_str!(concat!("../fixtures/", $prefix, "-pods.json"))),
        ]
    };
}

impl World {
    pub fn seed(gpu: Gpu) -> World {
        World::of(gpu, lists!("seed-kube"))
    }

    pub fn good() -> World {
        World::of(Gpu::Works, lists!("kube-good"))
    }

    fn of(gpu: Gpu, lists: [(KubeList, &str); 4]) -> World {
        let parse = |text| serde_json::from_str(text).expect("a fixture is JSON");
        World { gpu, lists: lists.into_iter().map(|(kind, text)| (kind, parse(text))).collect() }
    }

    pub fn list(&mut self, kind: KubeList) -> &mut Value {
        &mut self.lists.iter_mut().find(|(known, _)| *known == kind).expect("every kind is there").1
    }

    /// The field of one object of a list, by its name.
    pub fn object(&mut self, kind: KubeList, name: &str) -> &mut Value {
        let items = self.list(kind)["items"].as_array_mut().expect("items");
        items.iter_mut().find(|item| item["metadata"]["name"] == name).expect("the object")
    }

    pub fn facts(&self) -> Facts {
        kube::observe(&self.memory(), &inventory(self.gpu))
    }

    pub fn memory(&self) -> Memory {
        let mut memory = Memory::new("a node");
        memory.insert_file("/etc/hostname", b"mufti-4\n");
        memory.insert_file("/etc/kubernetes/kubelet.conf", b"kind: Config\n");
        memory.insert_gone("/var/lib/kubelet/plugins/gpu.nvidia.com/checkpoint.json", Seen::Absent);
        // docker's machines have none
        memory.insert_answer(Question::ContainerdConfig, Seen::Absent);
        for (kind, list) in &self.lists {
            memory.insert_answer(Question::Kube(*kind), Seen::Is(Answer::Json(list.clone())));
        }
        memory
    }

    pub fn verdict(&self, id: &str) -> Verdict {
        verdict(&self.facts(), id)
    }

    /// Carries a plan's operations out as the API server would, and lets the controllers run.
    pub fn apply(&mut self, plan: &Plan) {
        for op in ops(plan) {
            self.act(op).expect("a plan is acceptable to the API");
        }
    }

    pub fn act(&mut self, op: &KubeOp) -> Result<(), String> {
        let kind = match op.kind.as_str() {
            "Node" => KubeList::Nodes,
            "DaemonSet" => KubeList::DaemonSets,
            "Deployment" => KubeList::Deployments,
            _ => KubeList::Pods,
        };
        kube::apply_to_list(self.list(kind), op)?;
        let nodes = self.list(KubeList::Nodes).clone();
        kube::settle(&nodes, self.list(KubeList::DaemonSets))
    }
}

pub fn ops(plan: &Plan) -> Vec<&KubeOp> {
    let kube = |change: &'_ model::Change| matches!(change.op, Op::Kube(_));
    assert!(plan.changes.iter().all(kube), "this floor changes API objects only");
    plan.changes.iter().filter_map(|change| if let Op::Kube(op) = &change.op { Some(&**op) } else { None }).collect()
}

pub fn verdict(facts: &Facts, id: &str) -> Verdict {
    let findings: Vec<Finding> = model::run_all(kube::CHECKS, facts);
    findings.into_iter().find(|finding| finding.about.id.0 == id).unwrap_or_else(|| panic!("no check {id}")).verdict
}

pub fn says(verdict: &Verdict) -> &str {
    match verdict {
        Verdict::Warn(trouble) | Verdict::Fail(trouble) => &trouble.says,
        other => panic!("no trouble: {other:?}"),
    }
}

pub fn inventory(gpu: Gpu) -> Inventory {
    let works = gpu == Gpu::Works;
    let nvml = NvmlReport {
        confidential: Seen::Absent,
        driver_version: Seen::Is("510.54".into()),
        nvml_version: Seen::Absent,
        cuda_version: Seen::Absent,
        gpus: vec![NvmlGpu::blank(0)],
    };
    Inventory {
        cards: if gpu == Gpu::None { Vec::new() } else { vec![card()] },
        functions: Vec::new(),
        looked: Seen::Is(()),
        nvml: match gpu {
            Gpu::Works => Seen::Is(nvml),
            Gpu::Hidden => Seen::Unreadable(Reason::TimedOut),
            _ => Seen::Absent,
        },
        driver: DriverFacts {
            kernel: if works || gpu == Gpu::Hidden { Seen::Is("510.54".into()) } else { Seen::Absent },
            kind: None,
            library: Seen::Absent,
            library_path: Seen::Absent,
            library_via: None,
        },
        hints: Seen::Absent,
    }
}

fn card() -> Card {
    let bdf = "01:00.0".parse().expect("an address");
    Card {
        identity: Identity { bdf, id: PciId::new(PciId::NVIDIA, 0x1d01), subsystem: None, uuid: None },
        class: 0x030000,
        class_name: "VGA compatible controller".into(),
        vendor_name: "NVIDIA Corporation".into(),
        device_name: "GP108 [GeForce GT 1030]".into(),
        subsystem_name: None,
        revision: 0xa1,
        driver: Seen::Absent,
        driver_override: Seen::Absent,
        group: Seen::Absent,
        companions: Vec::new(),
        reset: Seen::Absent,
        boot_vga: false,
        bars: Vec::new(),
        bar_sum: 0,
        link: Seen::Absent,
        numa: None,
        slot: Seen::Absent,
        port: None,
        power: Seen::Absent,
        arch: None,
        nvml: None,
        holder: Holder::Nobody,
    }
}
