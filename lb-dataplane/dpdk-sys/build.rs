//! Finds DPDK by pkg-config, generates the binding, and links DPDK's static archives: drivers whole, as they register
//! themselves in constructors that nothing refers to, the libraries by need.

use std::env;
use std::path::{Path, PathBuf};
use std::process::exit;

/// Drivers, their buses and the shared parts of them, for labs, tests and virtual machines.
const DRIVERS: &[&str] = &[
    "bus_vdev",
    "bus_pci",
    "mempool_ring",
    "net_af_packet",
    "net_af_xdp",
    "net_memif",
    "net_null",
    "net_pcap",
    "net_ring",
    "net_tap",
    "net_vhost",
    "net_virtio",
];

/// Physical network cards and those of hypervisors and clouds (feature `hardware`, and every release build).
const HARDWARE_DRIVERS: &[&str] = &[
    "bus_auxiliary",
    "bus_vmbus",
    "common_iavf",
    "common_idpf",
    "common_mlx5",
    "common_sfc_efx",
    "net_atlantic",
    "net_axgbe",
    "net_bnxt",
    "net_cxgbe",
    "net_e1000",
    "net_ena",
    "net_enic",
    "net_gve",
    "net_i40e",
    "net_iavf",
    "net_ice",
    "net_igc",
    "net_ixgbe",
    "net_mana",
    "net_mlx4",
    "net_mlx5",
    "net_netvsc",
    "net_ngbe",
    "net_sfc",
    "net_txgbe",
    "net_vmxnet3",
];

/// What precedes the name of a driver's archive: these are not libraries.
const DRIVER_KINDS: &[&str] = &[
    "baseband_",
    "bus_",
    "common_",
    "compress_",
    "crypto_",
    "dma_",
    "event_",
    "gpu_",
    "mempool_",
    "ml_",
    "net_",
    "power_",
    "raw_",
    "regex_",
    "vdpa_",
];

/// Shared system libraries that DPDK's libraries and the drivers above use, where this DPDK was built with them.
const SYSTEM_LIBRARIES: &[&str] = &[
    "archive", "atomic", "bpf", "bsd", "dl", "efa", "elf", "fdt", "ibverbs", "jansson", "m", "mana", "md",
    "mlx4", "mlx5", "numa", "pcap", "pthread", "rt", "xdp", "z",
];

fn main() {
    for file in ["build.rs", "wrapper.h", "shim.c"] {
        println!("cargo::rerun-if-changed={file}");
    }
    println!("cargo::rerun-if-env-changed=PKG_CONFIG_PATH");
    // `cargo_metadata(false)`: it would link the shared DPDK besides the static one, and two copies of it in a
    // process panic at start.
    let dpdk = pkg_config::Config::new()
        .atleast_version("22.11")
        .cargo_metadata(false)
        .statik(true)
        .probe("libdpdk")
        .unwrap_or_else(|_| fail("DPDK not found: run `make setup`"));
    let cflags = words(&["--cflags", "libdpdk"]);
    let directory = words(&["--variable=libdir", "libdpdk"]).join(" ");
    bind(&cflags);
    compile_shim(&cflags);
    link(Path::new(&directory), &words(&["--static", "--libs", "libdpdk"]));
    println!("cargo::metadata=version={}", dpdk.version);
}

fn fail(message: &str) -> ! {
    println!("cargo::error={message}");
    // Cargo fails for the error above; with any other code it would also print everything that went before.
    exit(0)
}

/// What pkg-config prints, in words.
fn words(arguments: &[&str]) -> Vec<String> {
    let program = env::var("PKG_CONFIG").unwrap_or_else(|_| "pkg-config".to_owned());
    match std::process::Command::new(program).args(arguments).output() {
        Ok(output) if output.status.success() => {
            String::from_utf8_lossy(&output.stdout).split_whitespace().map(str::to_owned).collect()
        }
        _ => fail("DPDK not found: run `make setup`"),
    }
}

fn bind(cflags: &[String]) {
    let functions = "rte_eal_(init|cleanup|get_runtime_dir)|rte_(openlog_stream|log_set_global_level|strerror|version)\
        |rte_thread_(un)?register|rte_dev_(probe|remove)|rte_pktmbuf_(init|pool_init)|rte_mbuf_best_mempool_ops\
        |rte_mempool_(create_empty|set_ops_byname|populate_default|obj_iter|free|in_use_count)|rte_socket_id|lb_.*\
        |rte_eth_(dev_(info_get|configure|start|stop|close|get_port_by_name|adjust_nb_rx_tx_desc|rss_(hash_conf_get|reta_(update|query)))|(rx|tx)_(queue_setup|burst_mode_get)|dev_rx_intr_(enable|disable|ctl_q_get_fd)|macaddr_get|link_get_nowait|link_to_str\
        |promiscuous_(enable|disable)|allmulticast_enable|stats_get)";
    bindgen::Builder::default()
        .header("wrapper.h")
        .clang_args(cflags)
        .allowlist_function(functions)
        .allowlist_type("rte_pktmbuf_pool_private")
        .allowlist_var(
            "rte_eth_fp_ops|LB_.*|RTE_(MAX_ETHPORTS|MAX_LCORE|ETH_LINK_MAX_STR_LEN|ETH_RETA_GROUP_SIZE)",
        )
        .opaque_type("rte_mbuf|rte_mempool|rte_l2tpv2_combined_msg_hdr|rte_device|rte_ether_hdr")
        .blocklist_type("FILE|_IO_.*")
        .raw_line("pub enum FILE {}")
        .derive_default(true)
        .derive_debug(false)
        .layout_tests(false)
        .generate_comments(false)
        .merge_extern_blocks(true)
        .generate()
        .unwrap_or_else(|error| fail(&format!("no binding to DPDK: {error}")))
        .write_to_file(out("bindings.rs"))
        .unwrap_or_else(|error| fail(&format!("no binding to DPDK: {error}")));
}

fn compile_shim(cflags: &[String]) {
    let mut build = cc::Build::new();
    build.file("shim.c").opt_level(3).warnings(false);
    for flag in cflags {
        build.flag(flag);
    }
    build.compile("lb_dpdk_shim");
}

fn link(directory: &Path, static_libs: &[String]) {
    let archives: Vec<&str> =
        static_libs.iter().filter_map(|word| word.strip_prefix("-l:librte_")?.strip_suffix(".a")).collect();
    if archives.is_empty() || !directory.join("librte_eal.a").exists() {
        fail(&format!("no static DPDK (librte_*.a) in {}: run `make setup`", directory.display()));
    }
    println!("cargo::rustc-link-search=native={}", directory.display());
    let release = env::var("PROFILE").is_ok_and(|profile| profile == "release");
    let hardware = release || env::var_os("CARGO_FEATURE_HARDWARE").is_some();
    let wanted = |name: &str| DRIVERS.contains(&name) || hardware && HARDWARE_DRIVERS.contains(&name);
    // pkg-config's order is that of dependency, and its drivers come first.
    let drivers: Vec<&str> = archives.iter().copied().filter(|name| wanted(name)).collect();
    for name in &drivers {
        println!("cargo::rustc-link-lib=static:+whole-archive,-bundle=rte_{name}");
    }
    println!("cargo::rustc-env=LB_DRIVERS={}", drivers.join(" "));
    for name in archives.iter().filter(|name| !DRIVER_KINDS.iter().any(|kind| name.starts_with(kind))) {
        println!("cargo::rustc-link-lib=static:-bundle=rte_{name}");
    }
    for name in SYSTEM_LIBRARIES {
        if static_libs.iter().any(|word| word.strip_prefix("-l") == Some(name)) {
            println!("cargo::rustc-link-lib=dylib={name}");
        }
    }
}

fn out(file: &str) -> PathBuf {
    PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join(file)
}
