import com.google.gson.JsonObject;
import com.google.gson.JsonParser;
import io.grpc.CallOptions;
import io.grpc.ClientCall;
import io.grpc.Codec;
import io.grpc.CompressorRegistry;
import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import io.grpc.ManagedChannel;
import io.grpc.Metadata;
import io.grpc.MethodDescriptor;
import io.grpc.Status;
import java.io.BufferedReader;
import java.io.ByteArrayInputStream;
import java.io.IOException;
import java.io.InputStream;
import java.io.InputStreamReader;
import java.io.OutputStream;
import java.io.UncheckedIOException;
import java.util.Base64;
import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.TimeUnit;
import java.util.zip.DeflaterOutputStream;
import java.util.zip.InflaterInputStream;

/** Makes the calls that it reads from standard input, a JSON object a line, and prints what comes of each. */
public final class Caller {
  private static final Map<String, ManagedChannel> CHANNELS = new ConcurrentHashMap<>();
  private static final Map<Long, ClientCall<byte[], byte[]>> CALLS = new ConcurrentHashMap<>();

  public static void main(String[] arguments) throws IOException {
    CompressorRegistry.getDefaultInstance().register(new Deflate());
    var input = new BufferedReader(new InputStreamReader(System.in));
    for (String line = input.readLine(); line != null; line = input.readLine()) {
      JsonObject order = JsonParser.parseString(line).getAsJsonObject();
      if (order.has("cancel")) {
        var call = CALLS.get(order.get("cancel").getAsLong());
        if (call != null) {
          call.cancel("the test cancels it", null);
        }
      } else {
        start(order);
      }
    }
    System.exit(0);
  }

  private static void start(JsonObject order) {
    long id = order.get("id").getAsLong();
    var type =
        order.get("is_stream").getAsBoolean()
            ? MethodDescriptor.MethodType.SERVER_STREAMING
            : MethodDescriptor.MethodType.UNARY;
    var method =
        MethodDescriptor.newBuilder(new Bytes(), new Bytes())
            .setType(type)
            .setFullMethodName(order.get("method").getAsString())
            .build();
    var options =
        CallOptions.DEFAULT.withDeadlineAfter(order.get("timeout_ms").getAsLong(), TimeUnit.MILLISECONDS);
    if (order.has("compression")) {
      options = options.withCompression(order.get("compression").getAsString());
    }
    var headers = new Metadata();
    order
        .getAsJsonObject("headers")
        .entrySet()
        .forEach(
            header ->
                headers.put(
                    Metadata.Key.of(header.getKey(), Metadata.ASCII_STRING_MARSHALLER),
                    header.getValue().getAsString()));
    var call = channel(order.get("address").getAsString()).newCall(method, options);
    CALLS.put(id, call);
    call.start(new Printer(id), headers);
    call.request(Integer.MAX_VALUE);
    call.sendMessage(Base64.getDecoder().decode(order.get("request").getAsString()));
    call.halfClose();
  }

  /** The limits of grpc-java's channels are those that a client has by default. */
  private static ManagedChannel channel(String address) {
    return CHANNELS.computeIfAbsent(
        address, to -> Grpc.newChannelBuilder(to, InsecureChannelCredentials.create()).build());
  }

  private static synchronized void print(long id, JsonObject line) {
    line.addProperty("id", id);
    System.out.println(line);
    System.out.flush();
  }

  /** Prints the messages of a call, and its end with the trailers. */
  private static final class Printer extends ClientCall.Listener<byte[]> {
    private final long id;

    Printer(long id) {
      this.id = id;
    }

    @Override
    public void onMessage(byte[] message) {
      var line = new JsonObject();
      line.addProperty("message", Base64.getEncoder().encodeToString(message));
      print(id, line);
    }

    @Override
    public void onClose(Status status, Metadata trailers) {
      CALLS.remove(id);
      var texts = new JsonObject();
      for (String name : trailers.keys()) {
        if (name.endsWith(Metadata.BINARY_HEADER_SUFFIX)) {
          byte[] value = trailers.get(Metadata.Key.of(name, Metadata.BINARY_BYTE_MARSHALLER));
          texts.addProperty(name, Base64.getEncoder().encodeToString(value));
        } else {
          texts.addProperty(name, trailers.get(Metadata.Key.of(name, Metadata.ASCII_STRING_MARSHALLER)));
        }
      }
      var line = new JsonObject();
      line.addProperty("code", status.getCode().value());
      line.addProperty("text", status.getDescription());
      line.add("trailers", texts);
      print(id, line);
    }
  }

  private static final class Bytes implements MethodDescriptor.Marshaller<byte[]> {
    @Override
    public InputStream stream(byte[] message) {
      return new ByteArrayInputStream(message);
    }

    @Override
    public byte[] parse(InputStream stream) {
      try {
        return stream.readAllBytes();
      } catch (IOException error) {
        throw new UncheckedIOException(error);
      }
    }
  }

  /** A compression that the gateway does not take. */
  private static final class Deflate implements Codec {
    @Override
    public String getMessageEncoding() {
      return "deflate";
    }

    @Override
    public OutputStream compress(OutputStream stream) {
      return new DeflaterOutputStream(stream);
    }

    @Override
    public InputStream decompress(InputStream stream) {
      return new InflaterInputStream(stream);
    }
  }
}
