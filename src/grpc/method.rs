//! The methods of the port, by their paths, and the largest message that each takes.

/// 1 MiB: the largest message of a request, unpacked. tonic stops unpacking there. A request with
/// 1,000 image IDs and 200 buckets has 80 KiB.
pub(super) const MAX_MESSAGE_BYTES: usize = 1 << 20;

/// 4 KiB: the largest message of a request to health or reflection, unpacked. They take a name.
pub const MAX_FOREIGN_MESSAGE_BYTES: usize = 4 << 10;

/// What a path asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Method {
    /// `ListStoreImageTasks`, whose responses are cached.
    List,
    /// A watch of the contract.
    Watch,
    /// A check of health.
    HealthCheck,
    /// A watch of health.
    HealthWatch,
    /// A method of reflection. Both its requests and its responses are streams.
    Reflection,
    /// A path that is no method of the gateway's.
    Unknown,
}

impl Method {
    pub(super) fn of(path: &str) -> Self {
        match path {
            "/amistore.v1.StoreImageTaskService/ListStoreImageTasks" => Self::List,
            "/amistore.v1.StoreImageTaskService/WatchStoreImageTask"
            | "/amistore.v1.StoreImageTaskService/WatchStoreImageTasks" => Self::Watch,
            "/grpc.health.v1.Health/Check" => Self::HealthCheck,
            "/grpc.health.v1.Health/Watch" => Self::HealthWatch,
            "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
            | "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo" => Self::Reflection,
            _ => Self::Unknown,
        }
    }

    /// Whether its responses are a stream that no handler of the contract makes.
    pub(super) fn is_foreign_stream(self) -> bool {
        matches!(self, Self::HealthWatch | Self::Reflection)
    }

    /// The largest message of a request that is collected before the method is called. None if the
    /// method takes its messages as they come, or does not exist.
    pub(super) fn max_message(self) -> Option<usize> {
        match self {
            Self::List | Self::Watch => Some(MAX_MESSAGE_BYTES),
            Self::HealthCheck | Self::HealthWatch => Some(MAX_FOREIGN_MESSAGE_BYTES),
            Self::Reflection | Self::Unknown => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use prost::Message as _;
    use prost_types::{FileDescriptorSet, MethodDescriptorProto};

    use super::*;
    use crate::proto;

    fn method(service: &str, method: &MethodDescriptorProto) -> Method {
        Method::of(&format!("/{service}/{}", method.name()))
    }

    #[test]
    fn every_method_of_the_port_has_its_kind() {
        let mut methods = 0;
        for set in [
            proto::FILE_DESCRIPTOR_SET,
            tonic_health::pb::FILE_DESCRIPTOR_SET,
            tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
            tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
        ] {
            let set = FileDescriptorSet::decode(set).expect("a descriptor set");
            for file in set.file {
                for service in &file.service {
                    let name = format!("{}.{}", file.package(), service.name());
                    for rpc in &service.method {
                        let kind = method(&name, rpc);
                        assert_ne!(kind, Method::Unknown, "{name}/{}", rpc.name());
                        // Only reflection's requests are read as they come.
                        assert_eq!(rpc.client_streaming(), kind == Method::Reflection);
                        methods += 1;
                    }
                }
            }
        }
        assert!(methods >= 7, "{methods}");
        for path in ["", "/", "/grpc.health.v1.Health/No", "/grpc.health.v1.Health/Check/"] {
            assert_eq!(Method::of(path), Method::Unknown, "{path}");
        }
    }
}
