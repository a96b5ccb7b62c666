#[test]
fn x() { let d = std::fs::read(std::env::var("F").unwrap()).unwrap(); (lb_fuzz::targets::TARGETS.iter().find(|t| t.name == "flow").unwrap().run)(&d) }
