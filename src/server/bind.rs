//! Binds the addresses on which a server listens.

use std::{
    fs, io,
    net::{Ipv4Addr, SocketAddr},
    os::unix::fs::{FileTypeExt as _, MetadataExt as _},
    path::{Path, PathBuf},
};

use tokio::net::{TcpListener, UnixListener, UnixStream};

/// Binds HOST:PORT. All addresses of IPv6 include those of IPv4, so on a host without IPv6 these remain.
///
/// # Errors
/// Those of the system, such as an address that is in use.
pub async fn bind_tcp(address: &str) -> io::Result<TcpListener> {
    let error = match TcpListener::bind(address).await {
        Ok(listener) => return Ok(listener),
        Err(error) => error,
    };
    match port_of_all_addresses(address) {
        Some(port) if error.kind() != io::ErrorKind::AddrInUse => {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).await
        }
        _ => Err(error),
    }
}

/// The port, if the address stands for all addresses of IPv6.
fn port_of_all_addresses(address: &str) -> Option<u16> {
    match address.parse() {
        Ok(SocketAddr::V6(all)) if all.ip().is_unspecified() => Some(all.port()),
        _ => None,
    }
}

/// Binds a path. Replaces the socket of a process that has ended without removing it.
pub(super) async fn bind_unix(path: &Path) -> io::Result<(UnixListener, SocketFile)> {
    let listener = match UnixListener::bind(path) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse && is_stale(path).await => {
            fs::remove_file(path)?;
            UnixListener::bind(path)?
        }
        bound => bound?,
    };
    let file = SocketFile::new(path)?;
    Ok((listener, file))
}

/// Returns whether the file is a socket on which no process listens.
async fn is_stale(path: &Path) -> bool {
    let is_socket = fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket());
    let refused = match UnixStream::connect(path).await {
        Ok(_) => false,
        Err(error) => error.kind() == io::ErrorKind::ConnectionRefused,
    };
    is_socket && refused
}

/// The file of a Unix socket, which is removed at the end unless another process has replaced it.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    identity: (u64, u64),
}

impl SocketFile {
    fn new(path: &Path) -> io::Result<Self> {
        // The process may change its directory.
        let path = std::path::absolute(path)?;
        let identity = identity(&path)?;
        Ok(Self { path, identity })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let is_ours = identity(&self.path).is_ok_and(|identity| identity == self.identity);
        if is_ours && let Err(error) = fs::remove_file(&self.path) {
            tracing::debug!(path = %self.path.display(), %error, "a socket was not removed");
        }
    }
}

/// Device and inode of a file.
fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let file = fs::symlink_metadata(path)?;
    Ok((file.dev(), file.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A path of its own for a test.
    fn path(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("amistore-{}-{name}", std::process::id()));
        let _ = fs::remove_file(&path);
        path
    }

    #[tokio::test]
    async fn a_socket_that_its_process_has_left_is_replaced_and_removed_at_the_end() {
        let path = path("stale.sock");
        drop(UnixListener::bind(&path).expect("bound"));
        assert!(path.exists(), "a socket outlives its listener");
        let (listener, file) = bind_unix(&path).await.expect("replaced");
        UnixStream::connect(&path).await.expect("connected");
        drop((listener, file));
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_socket_with_a_listener_stays_even_if_its_queue_is_full() {
        let path = path("live.sock");
        let socket = rustix::net::socket(
            rustix::net::AddressFamily::UNIX,
            rustix::net::SocketType::STREAM,
            None,
        )
        .expect("a socket");
        let address = rustix::net::SocketAddrUnix::new(&path).expect("short enough");
        rustix::net::bind(&socket, &address).expect("bound");
        rustix::net::listen(&socket, 0).expect("listening");
        let mut connected = Vec::new();
        while let Ok(stream) = UnixStream::connect(&path).await {
            connected.push(stream);
        }
        for _ in 0..2 {
            let error = bind_unix(&path).await.expect_err("in use");
            assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
            assert!(path.exists());
            connected.clear();
        }
        fs::remove_file(&path).expect("removed");
    }

    #[tokio::test]
    async fn a_file_that_is_no_socket_stays() {
        let path = path("file.sock");
        fs::write(&path, "precious").expect("written");
        let error = bind_unix(&path).await.expect_err("a file");
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        assert_eq!(fs::read_to_string(&path).expect("read"), "precious");
        fs::remove_file(&path).expect("removed");
    }

    #[tokio::test]
    async fn the_socket_of_a_successor_stays() {
        let path = path("successor.sock");
        let first = bind_unix(&path).await.expect("bound");
        fs::rename(&path, path.with_extension("old")).expect("renamed");
        let second = bind_unix(&path).await.expect("bound");
        drop(first);
        UnixStream::connect(&path).await.expect("connected");
        drop(second);
        assert!(!path.exists());
        fs::remove_file(path.with_extension("old")).expect("removed");
    }

    #[tokio::test]
    async fn all_addresses_take_connections_of_both_families() {
        use std::net::{IpAddr, Ipv6Addr};
        let listener = bind_tcp("[::]:0").await.expect("bound");
        let bound = listener.local_addr().expect("bound");
        let mut hosts = vec![IpAddr::V4(Ipv4Addr::LOCALHOST)];
        // A host without IPv6 listens on all addresses of IPv4.
        if bound.is_ipv6() {
            hosts.push(IpAddr::V6(Ipv6Addr::LOCALHOST));
        }
        for host in hosts {
            let connected = tokio::net::TcpStream::connect((host, bound.port())).await;
            assert!(connected.is_ok(), "{host}: {connected:?}");
        }
    }
}
