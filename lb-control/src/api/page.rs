//! The status page: what runs, on one screen, for people. No script, no style sheet from elsewhere.

use std::fmt::{self, Write};

use crate::api::types::{ServiceView, Status};
use crate::daemon::Control;

/// Services that the page shows; more are in `ipvsadm -Ln`.
const SERVICES: usize = 200;
const SERVERS: usize = 50;

const STYLE: &str = "body{font:14px/1.4 sans-serif;margin:2em;max-width:70em}table{border-collapse:collapse}\
td,th{padding:.2em .8em;text-align:right;border-bottom:1px solid #ddd}td:first-child,th:first-child{text-align:left}";

/// The page as HTML.
pub(super) fn render(control: &Control) -> String {
    let mut page = String::new();
    // Writing to a string does not fail.
    let _ = write(&mut page, control);
    page
}

fn write(page: &mut String, control: &Control) -> fmt::Result {
    let status = control.status();
    let state = if status.ready { "ready" } else { "not ready" };
    write!(page, "<!doctype html><meta charset=utf-8><title>lbd: {state}</title><style>{STYLE}</style>")?;
    write!(page, "<h1>lbd {}: {state}</h1>", status.version)?;
    head(page, &status)?;
    page.push_str("<h2>Workers</h2><table><tr><th>worker<th>CPU<th>busy<th>connections<th>tables</tr>");
    for worker in control.worker_views() {
        let all = worker.busy_cycles + worker.idle_cycles;
        let busy = if all == 0 { 0.0 } else { worker.busy_cycles as f64 * 100.0 / all as f64 };
        let stalled = if worker.alive { "" } else { " (stands still)" };
        write!(
            page,
            "<tr><td>{}{stalled}<td>{}<td>{busy:.1} %<td>{}<td>{}</tr>",
            worker.worker, worker.cpu, worker.flows, worker.generation
        )?;
    }
    page.push_str("</table><h2>Ports</h2><table><tr><th>port<th>link<th>received<th>sent<th>missed</tr>");
    for port in control.port_views() {
        let link = if port.link_up { "up" } else { "down" };
        write!(
            page,
            "<tr><td>{}<td>{link}<td>{}<td>{}<td>{}</tr>",
            Escaped(&port.name),
            port.rx_packets,
            port.tx_packets,
            port.rx_missed
        )?;
    }
    page.push_str("</table><h2>Virtual services</h2><table><tr><th>service<th>weight<th>active<th>inactive<th>connections</tr>");
    let services = control.first_services(SERVICES, SERVERS);
    services.iter().try_for_each(|service| service_rows(page, service))?;
    page.push_str("</table>");
    if let Some(more @ 1..) = status.services.checked_sub(SERVICES) {
        write!(page, "<p>and {more} more")?;
    }
    page.push_str(
        "<p><a href=/metrics>metrics</a> <a href=/readyz>readyz</a> <a href=/healthz>healthz</a>\n",
    );
    Ok(())
}

fn head(page: &mut String, status: &Status) -> fmt::Result {
    for problem in &status.problems {
        write!(page, "<p>{}", Escaped(problem))?;
    }
    write!(
        page,
        "<p>process {}, up for {} s, config {}, {} services with {} real servers, {} of {} connections",
        status.pid,
        status.uptime,
        Escaped(&status.config),
        status.services,
        status.servers,
        status.connections,
        status.max_connections
    )
}

fn service_rows(page: &mut String, service: &ServiceView) -> fmt::Result {
    let ServiceView { spec, counts, .. } = service;
    write!(
        page,
        "<tr><td><b>{}</b> {}<td><td><td><td>{}</tr>",
        spec.service, spec.scheduler, counts.connections
    )?;
    for server in &service.servers {
        write!(
            page,
            "<tr><td>→ {}<td>{}<td>{}<td>{}<td>{}</tr>",
            server.spec.server, server.spec.weight, server.active, server.inactive, server.counts.connections
        )?;
    }
    Ok(())
}

/// Text that HTML does not take for markup.
struct Escaped<'t>(&'t str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|character| match character {
            '<' => f.write_str("&lt;"),
            '&' => f.write_str("&amp;"),
            '"' => f.write_str("&quot;"),
            other => f.write_char(other),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::fake;

    #[test]
    fn the_page_shows_services_servers_and_problems_without_markup_of_others() {
        let service =
            "[[virtual_service]]\naddress = \"192.0.2.1:80\"\nreal_servers = [{ address = \"10.0.0.1\" }]\n";
        let (mut control, plane, _) = fake::start(service);
        control.set_twin_problem(Some("<script>".to_owned()));
        plane.workers[0].turns.busy_cycles.set(25);
        plane.workers[0].turns.idle_cycles.set(75);
        let page = render(&control);
        for part in ["not ready", "tcp/192.0.2.1:80", "→ 10.0.0.1:80", "25.0 %", "twin: &lt;script>", "wan"]
        {
            assert!(page.contains(part), "{part}: {page}");
        }
    }
}
