//! What the simulator's tests share: a laid-out box that can be written to as its owner would.
#![allow(dead_code, reason = "each test file uses its part")]

use machine::scratch::Scratch;
use machine::{MachineExt, Root};
use sim::Box;

pub struct Laid {
    pub tree: Scratch,
    pub root: Root,
}

pub fn lay_out(name: &str) -> Laid {
    let this = Box::load(name).unwrap_or_else(|error| panic!("{error}"));
    lay(&this)
}

pub fn lay(this: &Box) -> Laid {
    let tree = Scratch::temporary().expect("a temporary directory");
    sim::build(this, &tree).unwrap_or_else(|error| panic!("{error}: {:?}", std::error::Error::source(&error)));
    let root = Root::tree(tree.path()).expect("the tree opens");
    Laid { tree, root }
}

impl Laid {
    pub fn path(&self) -> &std::path::Path {
        self.tree.path()
    }

    pub fn write(&self, path: &str, text: &str) {
        self.tree.write(path, text.as_bytes(), 0o644).expect("written");
    }

    /// An executable file.
    pub fn script(&self, path: &str, text: &str) {
        self.tree.write(path, text.as_bytes(), 0o755).expect("written");
    }

    pub fn append(&self, path: &str, text: &str) {
        let old = self.root.text(path).is().unwrap_or_default();
        self.write(path, &format!("{old}{text}"));
    }

    pub fn value(&self, path: &str) -> String {
        self.root.value(path).is().unwrap_or_default()
    }

    /// The tree opened again: device nodes are read once for each opened tree, and a boot changes them.
    pub fn again(&self) -> Root {
        Root::tree(self.path()).expect("the tree opens")
    }

    /// The driver of a function; empty where none.
    pub fn driver(&self, bdf: &str) -> String {
        self.root.link_name(&format!("/sys/bus/pci/devices/{bdf}/driver")).is().unwrap_or_default()
    }
}
