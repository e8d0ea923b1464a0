//! Several workers in one sidecar, as connections that last see them.

use std::io::{BufReader, Read, Write};
use std::net::TcpStream;

use mesh_e2e::{Mesh, http, signal};

/// What `page` says of `metric` by worker or listener.
fn values(page: &str, metric: &str) -> Vec<u32> {
    let values = page
        .lines()
        .filter(|line| line.starts_with(metric))
        .filter_map(|line| line.rsplit_once(' ')?.1.parse().ok());
    values.collect()
}

/// Asks on an open connection and reads all of the answer.
fn ask(connection: &mut BufReader<TcpStream>) {
    let request = b"GET / HTTP/1.1\r\nHost: orders\r\n\r\n";
    connection.get_mut().write_all(request).expect("taken");
    let head = http::read_head(connection);
    let length = http::field(&head, "content-length").and_then(|length| length.parse().ok());
    let mut body = vec![0; length.expect("an answer with a length")];
    connection.read_exact(&mut body).expect("a body");
}

#[test]
fn few_connections_lie_evenly_on_workers_are_served_there_and_drained() {
    let mesh = Mesh::start(&["--workers", "8"]);
    for workload in ["web", "payments"] {
        let outbound = mesh.address(workload, "outbound");
        let mut open = Vec::new();
        for _ in 0..16 {
            let mut connection = BufReader::new(http::connect(outbound));
            ask(&mut connection);
            open.push(connection);
        }
        let page = mesh.metrics(workload);
        let shares = values(&page, "postern_worker_connections{");
        assert_eq!(shares.len(), 8, "{shares:?}");
        assert_eq!(shares.iter().sum::<u32>(), 16, "{shares:?}");
        // Two each; by the kernel's hash alone one has four or more, three times of four.
        assert!(shares.iter().all(|open| *open <= 3), "{shares:?}");
        let handed_over = values(&page, "postern_connections_handed_over_total");
        assert!(handed_over.iter().sum::<u32>() > 0, "{handed_over:?}");
        open.iter_mut().for_each(ask);
        signal("TERM", mesh.sidecar(workload));
        for mut connection in open {
            let rest = connection.read(&mut [0]).expect("an end, no reset");
            assert_eq!(rest, 0);
        }
    }
}
