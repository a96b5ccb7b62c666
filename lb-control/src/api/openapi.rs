//! The API described for machines. `docs/openapi.json` is the same text, committed.

use utoipa::OpenApi;

use super::accounts;
use super::connections;
use super::conntrack::routes as conntrack;
use super::idle_timers;
use super::server;
use super::trace;
use super::types;

#[derive(OpenApi)]
#[openapi(
    info(
        title = "lbd",
        description = "The load balancer's API: JSON over HTTP on a UNIX socket. Every answer that is not 2xx has an ErrorBody.",
        license(name = "MIT OR Apache-2.0")
    ),
    paths(
        server::commands,
        server::services,
        server::timeouts,
        server::sysctl,
        server::sync,
        connections::connections,
        connections::count_connections,
        conntrack::conntrack,
        conntrack::begin_conntrack,
        conntrack::end_conntrack,
        conntrack::change_conntrack,
        conntrack::count_conntrack,
        conntrack::expectations,
        conntrack::add_expectation,
        conntrack::end_expectations,
        conntrack::expectation_events,
        conntrack::conntrack_events,
        conntrack::conntrack_statistics,
        server::set_lines,
        server::sets,
        server::list_sets,
        server::fingerprints,
        server::status,
        server::ports,
        server::workers,
        server::drops,
        server::rules,
        server::change_rules,
        idle_timers::idle_timers,
        accounts::accounts,
        accounts::change_accounts,
        accounts::reset_accounts,
        server::explain_packet,
        trace::trace,
        server::describe,
        server::metrics,
        server::healthz,
        server::readyz,
    ),
    components(schemas(types::ErrorBody))
)]
struct Description;

/// The OpenAPI document, as JSON with a final newline.
pub fn document() -> String {
    // What is described is known at compile time; a test makes the text.
    Description::openapi().to_pretty_json().unwrap_or_default() + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_committed_description_is_that_of_the_program() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/openapi.json");
        if std::env::var_os("LB_BLESS").is_some() {
            std::fs::write(path, document()).expect(path);
        }
        let committed = std::fs::read_to_string(path).unwrap_or_default();
        assert!(committed == document(), "{path} is out of date: run this test with LB_BLESS=1");
    }

    #[test]
    fn every_route_of_the_documentation_is_described() {
        let document: serde_json::Value = serde_json::from_str(&document()).expect("JSON");
        let documentation = include_str!("mod.rs");
        let mut seen = 0;
        for path in documentation.split(['`', ' ', '?']).filter(|word| word.starts_with("/v1/")) {
            assert!(document["paths"][path].is_object(), "{path} is not described");
            seen += 1;
        }
        assert!(seen >= 9, "{seen}");
        assert!(document["components"]["schemas"]["ErrorBody"].is_object());
    }
}
