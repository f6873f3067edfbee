//! TLS with a certificate that no authority of the host knows: `cacert` and `verify` of
//! `clouds.yaml`.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use kiln::openstack::Choice;
use kiln::publish::{Glance, Images};
use kiln::remote::Environment;

use super::openstack::patience;
use super::servers::{free_port, tool};

/// An image service over TLS that has no images.
const SERVER: &str = "
import http.server, ssl, sys

class Images(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        answer = b'{\"images\": []}'
        self.send_response(200)
        self.send_header('Content-Length', str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

server = http.server.HTTPServer(('127.0.0.1', int(sys.argv[1])), Images)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(sys.argv[2], sys.argv[3])
server.socket = context.wrap_socket(server.socket, server_side=True)
print('up', flush=True)
server.serve_forever()
";

/// An authority, and a certificate of its making for this host.
fn certificates(directory: &Path) {
    fs::write(directory.join("leaf.ext"), "subjectAltName=IP:127.0.0.1\n").unwrap();
    let commands = [
        "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=tests -keyout ca.pem -out authority.pem",
        "req -newkey rsa:2048 -nodes -subj /CN=127.0.0.1 -keyout key.pem -out leaf.csr",
        "x509 -req -in leaf.csr -CA authority.pem -CAkey ca.pem -CAcreateserial -days 2 \
         -extfile leaf.ext -out leaf.pem",
    ];
    for command in commands {
        let mut openssl = Command::new(tool("openssl"));
        openssl.args(command.split_whitespace()).current_dir(directory).stderr(Stdio::null());
        assert!(openssl.status().unwrap().success(), "openssl {command}");
    }
}

#[test]
fn a_cloud_with_an_authority_of_its_own_is_trusted_as_the_user_says() {
    let directory = tempfile::tempdir().unwrap();
    certificates(directory.path());
    let port = free_port();
    let mut server = Command::new(tool("python3"))
        .args(["-c", SERVER, &port.to_string(), "leaf.pem", "key.pem"])
        .current_dir(directory.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut up = [0; 3];
    std::io::Read::read_exact(server.stdout.as_mut().unwrap(), &mut up).unwrap();
    let file = directory.path().join("clouds.yaml");
    let list = |trust: &str| {
        let cloud = format!(
            "clouds: {{c: {{auth_type: none, auth: {{endpoint: 'https://127.0.0.1:{port}'}}{trust}}}}}"
        );
        fs::write(&file, cloud).unwrap();
        let environment = Environment::of(&[("OS_CLIENT_CONFIG_FILE", file.to_str().unwrap())]);
        let opening = Glance::cloud(&environment, &Choice::default()).unwrap();
        opening.connect(patience()).unwrap().list("golden")
    };
    let results = [list(""), list(", cacert: authority.pem"), list(", verify: false")];
    server.kill().unwrap();
    server.wait().unwrap();
    let [unknown, trusted, blind] = results;
    assert!(unknown.is_err(), "nobody knows it");
    assert_eq!(trusted.unwrap(), []);
    assert_eq!(blind.unwrap(), []);
}
