//! A machine whose questions to the cluster are answered by the API itself, in place of kubectl.

use std::collections::BTreeMap;

use formats::elfso::SharedObject;
use machine::{Answer, Kind as MachineKind, KubeList, Machine, Question, Stat};
use model::Seen;
use serde_json::{Value, json};

use crate::api::{Api, Error, Kind, Part, Select};

/// The machine, and the lists that the API gave.
pub struct Asked<'a> {
    machine: &'a dyn Machine,
    lists: BTreeMap<KubeList, Value>,
}

impl<'a> Asked<'a> {
    /// Asks the API for all that the floor judges.
    ///
    /// # Errors
    /// The first list that it does not give.
    pub async fn of(machine: &'a dyn Machine, api: &Api) -> Result<Asked<'a>, Error> {
        let kinds = [
            (KubeList::Nodes, Kind::NODE),
            (KubeList::Pods, Kind::POD),
            (KubeList::DaemonSets, Kind::DAEMON_SET),
            (KubeList::Deployments, Kind::DEPLOYMENT),
        ];
        let mut lists = BTreeMap::new();
        for (list, kind) in kinds {
            let items = api.list(kind, None, &Select::default(), Part::Whole).await?;
            lists.insert(list, json!({"apiVersion": "v1", "kind": "List", "items": items}));
        }
        Ok(Asked { machine, lists })
    }

    /// The machine as it is, with its own answers: a simulated one's, or kubectl's.
    pub fn plain(machine: &'a dyn Machine) -> Asked<'a> {
        Asked { machine, lists: BTreeMap::new() }
    }
}

impl Machine for Asked<'_> {
    fn kind(&self) -> MachineKind {
        self.machine.kind()
    }

    fn name(&self) -> String {
        self.machine.name()
    }

    fn read(&self, path: &str) -> Seen<Vec<u8>> {
        self.machine.read(path)
    }

    fn image(&self, path: &str) -> Seen<Vec<u8>> {
        self.machine.image(path)
    }

    fn list(&self, path: &str) -> Seen<Vec<String>> {
        self.machine.list(path)
    }

    fn stat(&self, path: &str) -> Seen<Stat> {
        self.machine.stat(path)
    }

    fn lstat(&self, path: &str) -> Seen<Stat> {
        self.machine.lstat(path)
    }

    fn link(&self, path: &str) -> Seen<String> {
        self.machine.link(path)
    }

    fn real(&self, path: &str) -> Option<String> {
        self.machine.real(path)
    }

    fn nvml_libraries(&self) -> Option<Vec<String>> {
        self.machine.nvml_libraries()
    }

    fn library(&self, path: &str) -> Seen<SharedObject> {
        self.machine.library(path)
    }

    fn ask(&self, question: &Question) -> Seen<Answer> {
        match question {
            Question::Kube(list) => match self.lists.get(list) {
                Some(items) => Seen::Is(Answer::Json(items.clone())),
                None => self.machine.ask(question),
            },
            other => self.machine.ask(other),
        }
    }
}
