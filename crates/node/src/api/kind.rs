//! The kinds of the API that thruway speaks of, and where each lies.

/// A kind of object: where it lies in the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind {
    /// "" is the core group.
    pub group: &'static str,
    pub version: &'static str,
    pub plural: &'static str,
    pub kind: &'static str,
    pub namespaced: bool,
}

const fn kind(group: &'static str, version: &'static str, plural: &'static str, kind: &'static str) -> Kind {
    Kind { group, version, plural, kind, namespaced: true }
}

const fn whole(group: &'static str, version: &'static str, plural: &'static str, kind: &'static str) -> Kind {
    Kind { group, version, plural, kind, namespaced: false }
}

impl Kind {
    pub const NODE: Kind = whole("", "v1", "nodes", "Node");
    pub const POD: Kind = kind("", "v1", "pods", "Pod");
    pub const DAEMON_SET: Kind = kind("apps", "v1", "daemonsets", "DaemonSet");
    pub const DEPLOYMENT: Kind = kind("apps", "v1", "deployments", "Deployment");
    pub const STATEFUL_SET: Kind = kind("apps", "v1", "statefulsets", "StatefulSet");
    pub const EVENT: Kind = kind("events.k8s.io", "v1", "events", "Event");
    pub const SERVICE_ACCOUNT: Kind = kind("", "v1", "serviceaccounts", "ServiceAccount");

    /// All that are known here. An object of another kind is kubectl's business.
    pub const ALL: &[Kind] = &[
        Kind::NODE,
        Kind::POD,
        Kind::DAEMON_SET,
        Kind::DEPLOYMENT,
        Kind::STATEFUL_SET,
        Kind::EVENT,
        Kind::SERVICE_ACCOUNT,
        whole("", "v1", "namespaces", "Namespace"),
        kind("", "v1", "configmaps", "ConfigMap"),
        kind("", "v1", "services", "Service"),
        kind("apps", "v1", "replicasets", "ReplicaSet"),
        kind("batch", "v1", "jobs", "Job"),
        kind("batch", "v1", "cronjobs", "CronJob"),
        whole("rbac.authorization.k8s.io", "v1", "clusterroles", "ClusterRole"),
        whole("rbac.authorization.k8s.io", "v1", "clusterrolebindings", "ClusterRoleBinding"),
        kind("rbac.authorization.k8s.io", "v1", "roles", "Role"),
        kind("rbac.authorization.k8s.io", "v1", "rolebindings", "RoleBinding"),
        whole("node.k8s.io", "v1", "runtimeclasses", "RuntimeClass"),
        whole("admissionregistration.k8s.io", "v1", "validatingadmissionpolicies", "ValidatingAdmissionPolicy"),
        whole(
            "admissionregistration.k8s.io",
            "v1",
            "validatingadmissionpolicybindings",
            "ValidatingAdmissionPolicyBinding",
        ),
    ];

    /// "v1" or "apps/v1", and "Deployment": as an object says of itself.
    pub fn of(api_version: &str, kind: &str) -> Option<Kind> {
        Kind::ALL.iter().copied().find(|known| known.kind == kind && known.api_version() == api_version)
    }

    pub fn api_version(&self) -> String {
        match self.group {
            "" => self.version.to_owned(),
            group => format!("{group}/{}", self.version),
        }
    }

    /// The path of the collection: of one namespace, or of all.
    pub(super) fn path(&self, namespace: Option<&str>) -> String {
        let root = match self.group {
            "" => format!("/api/{}", self.version),
            group => format!("/apis/{group}/{}", self.version),
        };
        match namespace.filter(|_| self.namespaced) {
            Some(namespace) => format!("{root}/namespaces/{namespace}/{}", self.plural),
            None => format!("{root}/{}", self.plural),
        }
    }
}

/// One object: its kind, its namespace (None where the kind has none), its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    pub kind: Kind,
    pub namespace: Option<String>,
    pub name: String,
}

impl Object {
    pub fn new(kind: Kind, namespace: &str, name: &str) -> Self {
        let namespace = (kind.namespaced).then(|| if namespace.is_empty() { "default" } else { namespace }.to_owned());
        Object { kind, namespace, name: name.to_owned() }
    }

    pub fn node(name: &str) -> Self {
        Object::new(Kind::NODE, "", name)
    }

    pub(super) fn path(&self) -> String {
        format!("{}/{}", self.kind.path(self.namespace.as_deref()), self.name)
    }

    /// A name that can stand in a path: what the API takes as one (a DNS subdomain, at most 253 characters; RBAC's names may
    /// hold a colon).
    pub(super) fn is_sound(&self) -> bool {
        let sound = |text: &str| {
            !text.is_empty()
                && text.len() <= 253
                && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b':'))
                && text != "."
                && text != ".."
        };
        sound(&self.name) && self.namespace.as_deref().is_none_or(sound)
    }
}

impl std::fmt::Display for Object {
    /// "node mufti-4", "deployment media/jellyfin".
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kind = self.kind.kind.to_ascii_lowercase();
        match &self.namespace {
            Some(namespace) => write!(f, "{kind} {namespace}/{}", self.name),
            None => write!(f, "{kind} {}", self.name),
        }
    }
}
