//! The floors of the way a GPU takes.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::BadId;

/// A floor, in the order of the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Layer {
    Host,
    Vm,
    Guest,
    Container,
    Cluster,
    App,
}

impl Layer {
    pub const ALL: [Layer; 6] = [Layer::Host, Layer::Vm, Layer::Guest, Layer::Container, Layer::Cluster, Layer::App];

    pub fn name(self) -> &'static str {
        match self {
            Layer::Host => "host",
            Layer::Vm => "vm",
            Layer::Guest => "guest",
            Layer::Container => "container",
            Layer::Cluster => "cluster",
            Layer::App => "app",
        }
    }
}

impl fmt::Display for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Layer {
    type Err = BadId;

    /// `kube` and `kubernetes` are read as the cluster floor.
    fn from_str(text: &str) -> Result<Self, BadId> {
        let bad = BadId { text: text.to_owned(), wanted: "a floor (host, vm, guest, container, cluster, app)" };
        match text {
            "kube" | "kubernetes" => Ok(Layer::Cluster),
            _ => Layer::ALL.into_iter().find(|l| l.name() == text).ok_or(bad),
        }
    }
}
