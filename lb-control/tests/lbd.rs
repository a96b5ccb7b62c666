//! Goal: `lbd` as its operator starts it tells what is wrong in lines that name it, and exits 0 or 1. Method: the program
//! itself is run; what needs root and a network is in the lab's tests.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

fn lbd(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_lbd")).args(arguments).output().expect("lbd runs")
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("UTF-8")
}

#[test]
fn check_says_that_every_example_is_valid() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs");
    let copies = tempfile::tempdir().expect("a directory");
    let mut checked = 0;
    for entry in fs::read_dir(folder).expect("the examples") {
        let path = entry.expect("readable").path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            let mut output = lbd(&["--config", path.to_str().expect("UTF-8"), "--check"]);
            if text(&output.stderr).contains("is not there, the machine has CPUs") {
                // The example is of a larger machine.
                let whole = fs::read_to_string(&path).expect("readable");
                let (before, rest) = whole.split_once("\nworkers = [").expect("workers");
                let (_, after) = rest.split_once(']').expect("a list");
                let copy = copies.path().join(path.file_name().expect("a name"));
                fs::write(&copy, format!("{before}\nworkers = [0]{after}")).expect("writable");
                output = lbd(&["--config", copy.to_str().expect("UTF-8"), "--check"]);
            }
            assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
            assert!(text(&output.stdout).contains(": valid: "), "{}", text(&output.stdout));
            checked += 1;
        }
    }
    assert!(checked >= 4, "{checked}");
}

#[test]
fn check_prints_a_line_for_each_error_and_exits_1() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("lb.toml");
    let bad = "[dataplane]\nworkers = [1]\nhugepages = true\n[[port]]\nname = \"wan\"\ndevice = \"net_null0\"\nmtu = 1\n";
    fs::write(&path, bad).expect("writable");
    let name = path.to_str().expect("UTF-8");
    let output = lbd(&["--config", name, "--check"]);
    assert_eq!(output.status.code(), Some(1));
    let lines: Vec<&str> = text(&output.stderr).lines().collect();
    assert_eq!(lines.len(), 2, "{lines:?}");
    let start = format!(
        "lbd: {name}:3: dataplane: hugepages: unknown key (did you mean huge_pages?); allowed: workers, "
    );
    assert!(lines[0].starts_with(&start), "{}", lines[0]);
    assert_eq!(lines[1], format!("lbd: {name}:7: port wan: mtu: 1 is outside 576..=9000"));
}

#[test]
fn check_refuses_what_the_start_would_refuse_whatever_devices_there_are() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("lb.toml");
    let name = path.to_str().expect("UTF-8");
    for (dataplane, why) in [
        (
            "workers = [0]\nmemory_mb = 64\nmax_connections = 10000000",
            "dataplane.memory_mb: 64 is too little, ",
        ),
        (
            "workers = [0]\ndriver_args = [\"--no-huge\"]",
            "dataplane.driver_args: --no-huge may not be given here, ",
        ),
        ("workers = [0, 1023]", "dataplane.workers: CPU 1023 is not there, the machine has CPUs 0"),
    ] {
        let config =
            format!("[dataplane]\n{dataplane}\n[[port]]\nname = \"wan\"\ndevice = \"0000:ff:1f.7\"\n");
        fs::write(&path, config).expect("writable");
        let output = lbd(&["--config", name, "--check"]);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.starts_with(&format!("lbd: {name}: {why}")) && said.lines().count() == 1, "{said}");
    }
}

#[test]
fn a_file_that_is_not_there_and_an_unknown_option_end_with_1() {
    let output = lbd(&["--config", "/nowhere/lb.toml"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(text(&output.stderr), "lbd: /nowhere/lb.toml: No such file or directory (os error 2)\n");
    assert_eq!(lbd(&["--confg", "x"]).status.code(), Some(1));
    assert_eq!(lbd(&["--help"]).status.code(), Some(0));
}

#[test]
fn a_port_that_is_not_there_is_one_line_and_leaves_nothing_behind() {
    let directory = tempfile::tempdir().expect("a directory");
    let (path, socket) = (directory.path().join("lb.toml"), directory.path().join("run/api.sock"));
    let config = format!(
        "[dataplane]\nworkers = [0]\ndriver_args = [\"--no-pci\"]\nhuge_pages = false\nflow_memory = \"none\"\nmax_connections = 2000\n\
         [[port]]\nname = \"wan\"\ndevice = \"net_af_packet0,iface=no-such-port\"\n[api]\nsocket = {socket:?}\n"
    );
    fs::write(&path, config).expect("writable");
    let output = lbd(&["--config", path.to_str().expect("UTF-8")]);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(said.contains("port \"wan\""), "{said}");
    assert_eq!(fs::read_dir(directory.path().join("run")).expect("made").count(), 0);
}

#[test]
fn an_argument_that_dpdk_does_not_know_is_one_line() {
    // Before it comes to them a port needs what its twin needs.
    let status = fs::read_to_string("/proc/self/status").expect("readable");
    let capabilities = status.lines().find_map(|line| line.strip_prefix("CapEff:")).expect("there").trim();
    if u64::from_str_radix(capabilities, 16).expect("a number") & (1 << 12) == 0 {
        return;
    }
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("lb.toml");
    for (argument, why) in [("--foo", "unrecognized option '--foo'"), ("-z", "invalid option -- 'z'")] {
        let config = format!(
            "[dataplane]\nworkers = [0]\ndriver_args = [{argument:?}]\nhuge_pages = false\nflow_memory = \"none\"\nmax_connections = 2000\n\
             [[port]]\nname = \"lbdargs0\"\ndevice = \"net_null0\"\n[api]\nsocket = {:?}\n",
            directory.path().join("api.sock")
        );
        fs::write(&path, config).expect("writable");
        let output = lbd(&["--config", path.to_str().expect("UTF-8")]);
        assert_eq!(text(&output.stderr), format!("lbd: dataplane.driver_args: {why}\n"));
        assert_eq!((output.status.code(), text(&output.stdout)), (Some(1), ""));
    }
}
