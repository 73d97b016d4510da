// Sends one HTTP/2 request with given headers and an empty List as its body, which no gRPC library would
// send so. Prints the status headers or trailers of the answer as JSON.
import http2 from "node:http2";

const [address, headers] = process.argv.slice(2);
const client = http2.connect(`http://${address}`);
const call = client.request({
  ":method": "POST",
  ":path": "/amistore.v1.StoreImageTaskService/ListStoreImageTasks",
  "content-type": "application/grpc",
  te: "trailers",
  ...JSON.parse(headers),
});
let answer = {};
const note = (given) => (answer = { ...answer, ...given });
call.on("response", note);
call.on("trailers", note);
call.on("close", () => {
  console.log(JSON.stringify(answer));
  client.close();
});
call.resume();
call.end(Buffer.alloc(5));
