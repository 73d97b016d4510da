// Watches the task of one image with @grpc/grpc-js. Prints each message as one line of JSON.
import { fileURLToPath } from "node:url";
import grpc from "@grpc/grpc-js";
import loader from "@grpc/proto-loader";

const [address, imageId] = process.argv.slice(2);
const includeDirs = [fileURLToPath(new URL("../../proto", import.meta.url))];
const definition = loader.loadSync("amistore/v1/store_image_task_service.proto", { includeDirs, enums: String });
const { amistore } = grpc.loadPackageDefinition(definition);
const client = new amistore.v1.StoreImageTaskService(address, grpc.credentials.createInsecure());

const stream = client.watchStoreImageTask({ imageId, waitForTask: { seconds: 600 } });
stream.on("data", (message) => console.log(JSON.stringify(message)));
stream.on("error", (error) => {
  console.error(error.message);
  process.exitCode = 1;
});
stream.on("end", () => client.close());
