//! Makes loom's version of what threads share: the very sources that run in production, rtrb's among them, with loom's
//! atomics in place of the standard ones, and with rings and lists so short that every schedule can be tried.
//!
//! Each exchange must find its text exactly so often: when a source changes, the build says which one no longer fits.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

fn main() {
    let here = PathBuf::from(env::var("CARGO_MANIFEST_DIR").unwrap());
    let root = here.parent().unwrap();
    rtrb(&source_of_rtrb(root));
    let source = |path: &str| Source::read(&root.join(path));
    source("lb-dataplane/src/ring.rs")
        .exchange("use rtrb::", "use crate::rtrb::", 1)
        .exchange("use crate::bell::", "use crate::bell::source::", 1)
        .write("ring.rs");
    source("lb-dataplane/src/mailbox.rs")
        .exchange("use rtrb::", "use crate::rtrb::", 1)
        .exchange("use lb_core::tables::Tables;", "use super::Tables;", 1)
        .exchange("const RING: usize = 16;", "const RING: usize = 1;", 1)
        .write("mailbox.rs");
    source("lb-dataplane/src/listing.rs")
        .exchange("use rtrb::", "use crate::rtrb::", 1)
        .exchange("use std::sync::atomic::", "use loom::sync::atomic::", 1)
        .exchange("use std::time::{Duration, Instant};", "use std::time::Duration;\nuse super::Instant;", 1)
        .exchange("use lb_core::path::{FlowView, Sought};", "use super::{FlowView, Sought};", 1)
        .exchange("std::thread::sleep(PAUSE)", "super::pause(PAUSE)", 1)
        .exchange("const RING: usize = 1024;", "const RING: usize = 1;", 1)
        .write("listing.rs");
    source("lb-dataplane/src/sharing.rs")
        .exchange("use rtrb::", "use crate::rtrb::", 1)
        .exchange("use std::sync::atomic::", "use loom::sync::atomic::", 1)
        .exchange("use lb_core::ids::ServerId;", "use super::{ServerId, SharedFlow, Tick, Walk};", 1)
        .exchange("use lb_core::path::{SharedFlow, Walk};\n", "", 1)
        .exchange("use lb_core::time::Tick;\n", "", 1)
        .exchange("const RING: usize = 4096;", "const RING: usize = 1;", 1)
        .write("sharing.rs");
    source("lb-dataplane/src/bell.rs")
        .exchange("use std::sync::atomic::", "use loom::sync::atomic::", 1)
        .exchange("use std::fs::File;\n", "use super::Event as File;\n", 1)
        .exchange("use std::io::{Read, Write};\n", "", 1)
        .write("bell.rs");
    let courses = source("lb-core/src/counters/courses.rs")
        .exchange("use std::sync::atomic::", "use loom::sync::atomic::", 2)
        .exchange("MOST_COURSES: usize = 16_384;", "MOST_COURSES: usize = 2;", 1);
    let service = source("lb-core/src/counters/service.rs")
        .exchange("use crate::ipvs::limiter::", "use lb_core::ipvs::limiter::", 1)
        .exchange("use crate::time::", "use lb_core::time::", 1);
    source("lb-core/src/counters.rs")
        .exchange("mod courses;", &format!("mod courses {{ {} }}", courses.text), 1)
        .exchange("mod service;", &format!("mod service {{ {} }}", service.text), 1)
        .exchange("use std::sync::atomic::", "use loom::sync::atomic::", 1)
        .exchange("use crate::drop::", "use lb_core::drop::", 1)
        .exchange("use crate::hook::", "use lb_core::hook::", 1)
        .exchange("use crate::ids::", "use lb_core::ids::", 1)
        .exchange("use crate::ipvs::quic_lb::", "use lb_core::ipvs::quic_lb::", 1)
        .write("counters.rs");
    source("lb-core/src/ipvs/threshold.rs")
        .exchange("use std::sync::atomic::", "use loom::sync::atomic::", 2)
        .exchange("use crate::tables::Server;", "use super::Server;", 1)
        .write("threshold.rs");
    source("lb-core/src/rule/bucket.rs")
        .exchange("use std::sync::atomic::", "use loom::sync::atomic::", 2)
        .exchange("use crate::time::", "use lb_core::time::", 1)
        .exchange("#[derive(Default)]\n", "", 1)
        .write("bucket.rs");
    source("lb-core/src/set/store.rs")
        .exchange("use std::sync::atomic::{", "use loom::sync::atomic::{", 1)
        .exchange("use crate::mem::", "use lb_core::mem::", 1)
        .exchange("use crate::time::{", "use lb_core::time::{", 1)
        .exchange("[[AtomicUsize; 129]; 2]", "[[AtomicUsize; 2]; 2]", 1)
        .write("store.rs");
}

/// The ring that production links, in one file.
fn rtrb(folder: &Path) {
    let file = |name: &str| Source::read(&folder.join(name));
    let padded = file("cache_padded.rs");
    let shared =
        file("arc_ring_buffer.rs").exchange("use core::sync::atomic::", "use loom::sync::atomic::", 1);
    // Loom knows of no access through a raw pointer, so each is told to it.
    let place = |owner: &str, pointer: &str| {
        format!(
            "{owner}.buffer.places.access(unsafe {{ {pointer}.offset_from({owner}.buffer.data_ptr) }} as usize);"
        )
    };
    let (written, read) = ("unsafe { ptr.add(i).write(item) };", "Some(unsafe { ptr.read() })");
    let chunks = file("chunks.rs")
        .exchange("use crate::", "use super::", 2)
        .exchange("#[cfg(feature = \"std\")]\n", "", 3)
        .exchange(written, &format!("{} {written}", place("self.producer", "ptr.add(i)")), 1)
        .exchange(read, &format!("{} {read}", place("self.chunk.consumer", "ptr")), 1);
    let ring = file("lib.rs");
    ring.from("extern crate alloc;")
        .exchange("extern crate alloc;", "", 1)
        .exchange("use core::sync::atomic::", "use loom::sync::atomic::", 1)
        .exchange("mod cache_padded;", &format!("mod cache_padded {{ {} }}", padded.text), 1)
        .exchange("mod arc_ring_buffer;", &format!("mod arc_ring_buffer {{ {} }}", shared.text), 1)
        .exchange("use alloc::", "use std::", 3)
        .exchange("#[cfg(feature = \"std\")]\n", "", 3)
        .exchange("pub mod chunks;", &format!("pub mod chunks {{ {} }}", chunks.text), 1)
        .exchange("    data_ptr: *mut T,", "    data_ptr: *mut T,\n    places: crate::Places,", 1)
        .exchange(
            "            data_ptr: Man",
            "            places: crate::Places::new(capacity),\n            data_ptr: Man",
            1,
        )
        .exchange(
            "unsafe { self.data_ptr.add(pos) }",
            "{ self.places.access(pos); unsafe { self.data_ptr.add(pos) } }",
            1,
        )
        .write("rtrb.rs");
}

/// Where Cargo keeps the version that `Cargo.lock` names.
fn source_of_rtrb(root: &Path) -> PathBuf {
    println!("cargo::rerun-if-changed={}", root.join("Cargo.lock").display());
    let output = Command::new(env::var("CARGO").unwrap())
        .args(["metadata", "--format-version", "1", "--locked", "--offline"])
        .args(["--filter-platform", &env::var("TARGET").unwrap()])
        .current_dir(root)
        .output()
        .expect("cargo metadata runs");
    assert!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    let package = packages.iter().find(|package| package["name"] == "rtrb").expect("rtrb is linked");
    Path::new(package["manifest_path"].as_str().unwrap()).with_file_name("src")
}

/// A source file without its inner comments and its tests.
struct Source {
    name: PathBuf,
    text: String,
}

impl Source {
    fn read(path: &Path) -> Source {
        println!("cargo::rerun-if-changed={}", path.display());
        let all = fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let code = all.split("\n#[cfg(test)]\nmod tests").next().unwrap();
        let text = code.lines().filter(|line| !line.starts_with("//!")).collect::<Vec<_>>().join("\n") + "\n";
        Source { name: path.to_owned(), text }
    }

    fn from(mut self, start: &str) -> Source {
        let at = self.text.find(start).unwrap_or_else(|| panic!("{}: no {start:?}", self.name.display()));
        self.text.drain(..at);
        self
    }

    fn exchange(mut self, old: &str, new: &str, times: usize) -> Source {
        let found = self.text.matches(old).count();
        assert_eq!(found, times, "{}: so often stands {old:?} in it", self.name.display());
        self.text = self.text.replace(old, new);
        self
    }

    fn write(self, name: &str) {
        fs::write(Path::new(&env::var("OUT_DIR").unwrap()).join(name), self.text).unwrap();
    }
}
