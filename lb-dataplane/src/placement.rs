//! Where the workers run: what was found at the start, and what would be faster, in words.

use std::fs;

use crate::cpu::{self, CpuSet};
use crate::numa;

/// What the machine says of a worker's CPU.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Cpu {
    pub(crate) number: u32,
    /// The kernel keeps other threads away.
    pub(crate) is_isolated: bool,
    pub(crate) node: Option<u32>,
    /// The first thread of its core.
    pub(crate) core: u32,
}

impl Cpu {
    pub(crate) fn found(number: u32) -> Cpu {
        let directory = format!("/sys/devices/system/cpu/cpu{number}");
        let siblings =
            fs::read_to_string(format!("{directory}/topology/thread_siblings_list")).unwrap_or_default();
        let first = siblings.split(['-', ',']).next().and_then(|first| first.trim().parse().ok());
        Cpu {
            number,
            is_isolated: cpu::is_isolated(number),
            node: numa::of_cpu(number),
            core: first.unwrap_or(number),
        }
    }
}

/// What is found, first, and what would be faster. Of ports with their names and NUMA nodes, where these are known; `rest` are the CPUs that
/// control threads have.
pub(crate) fn remarks(workers: &[Cpu], ports: &[(&str, Option<u32>)], rest: &CpuSet) -> Vec<String> {
    let list = |chosen: &dyn Fn(&Cpu) -> bool| {
        let numbers: Vec<u32> = workers.iter().filter(|cpu| chosen(cpu)).map(|cpu| cpu.number).collect();
        CpuSet::of(&numbers).to_text()
    };
    let mut remarks =
        vec![format!("workers on CPUs {}, control threads on {}", list(&|_| true), rest.to_text())];
    if workers.iter().any(|worker| rest.has(worker.number)) {
        remarks.push(
            "there is no CPU besides the workers': control threads interrupt them; leave them one".to_owned(),
        );
    }
    let shared = list(&|cpu| !cpu.is_isolated);
    if !shared.is_empty() {
        remarks.push(format!(
            "CPUs {shared} are not isolated, packets wait whenever the kernel runs something else there; isolcpus={shared} nohz_full={shared} on \
             its command line keeps it from that"
        ));
    }
    for (index, cpu) in workers.iter().enumerate() {
        if let Some(other) = workers[..index].iter().find(|other| other.core == cpu.core) {
            remarks.push(format!(
                "CPUs {} and {} are threads of one core, of which two workers have half each",
                other.number, cpu.number
            ));
        }
    }
    let mut nodes: Vec<u32> = ports.iter().filter_map(|(_, node)| *node).collect();
    nodes.sort_unstable();
    nodes.dedup();
    if nodes.len() > 1 {
        remarks.push(format!(
            "ports are at NUMA nodes {}: each receives into packet memory of its own node, and a transmit queue has no fast free",
            nodes.iter().map(u32::to_string).collect::<Vec<_>>().join(", ")
        ));
    }
    for (name, node) in ports {
        let far = list(&|cpu| matches!((cpu.node, node), (Some(of), Some(node)) if of != *node));
        if let (Some(node), false) = (node, far.is_empty()) {
            remarks.push(format!(
                "port {name} is at NUMA node {node}, CPUs {far} are not: packets cross between nodes; take CPUs of /sys/devices/system/node/node{node}/cpulist"
            ));
        }
    }
    remarks
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cpu(number: u32) -> Cpu {
        Cpu { number, is_isolated: true, node: Some(0), core: number }
    }

    #[test]
    fn workers_that_are_well_placed_are_named_and_nothing_else() {
        let ports = [("wan", Some(0)), ("tap", None)];
        assert_eq!(
            remarks(&[cpu(2), cpu(3)], &ports, &CpuSet::of(&[0, 1])),
            ["workers on CPUs 2-3, control threads on 0-1"]
        );
    }

    #[test]
    fn what_would_be_faster_is_said_by_the_cpus_that_it_is_about() {
        let workers = [
            Cpu { is_isolated: false, ..cpu(2) },
            Cpu { node: Some(1), ..cpu(3) },
            Cpu { core: 2, is_isolated: false, ..cpu(10) },
        ];
        let said = remarks(&workers, &[("wan", Some(0)), ("lan", Some(1))], &CpuSet::of(&[2, 3, 10]));
        let begins = [
            "workers on CPUs 2-3,10, control threads on 2-3,10",
            "there is no CPU besides the workers'",
            "CPUs 2,10 are not isolated",
            "CPUs 2 and 10 are threads of one core",
            "ports are at NUMA nodes 0, 1: each receives into packet memory of its own node",
            "port wan is at NUMA node 0, CPUs 3 are not",
            "port lan is at NUMA node 1, CPUs 2,10 are not",
        ];
        assert_eq!(said.len(), begins.len(), "{said:?}");
        assert!(said.iter().zip(begins).all(|(said, begin)| said.starts_with(begin)), "{said:?}");
    }

    #[test]
    fn this_machine_says_of_its_cpus_what_is_asked() {
        let usable = CpuSet::usable().unwrap();
        let first = Cpu::found(usable.iter().next().unwrap());
        assert!(usable.has(first.number) && first.core <= first.number);
        assert_eq!(first.is_isolated, cpu::is_isolated(first.number));
    }
}
