import java.io.File;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import org.mlflow.api.proto.ModelRegistry.ModelVersion;
import org.mlflow.api.proto.Service.CreateRun;
import org.mlflow.api.proto.Service.FileInfo;
import org.mlflow.api.proto.Service.Metric;
import org.mlflow.api.proto.Service.Param;
import org.mlflow.api.proto.Service.Run;
import org.mlflow.api.proto.Service.RunInfo;
import org.mlflow.api.proto.Service.RunStatus;
import org.mlflow.api.proto.Service.RunTag;
import org.mlflow.api.proto.Service.ViewType;
import org.mlflow.tracking.ActiveRun;
import org.mlflow.tracking.MlflowClient;
import org.mlflow.tracking.MlflowContext;
import org.mlflow.tracking.MlflowHttpException;
import org.mlflow.tracking.RunsPage;
import org.mlflow.tracking.creds.BasicMlflowHostCreds;

/** MLflow's own Java client through its basic flow; the server is the one of the environment. */
public class BasicFlow {
  // The client does not read the token's variable by itself.
  static final MlflowClient client =
      new MlflowClient(new BasicMlflowHostCreds(System.getenv("MLFLOW_TRACKING_URI"), System.getenv("MLFLOW_TRACKING_TOKEN")));

  public static void main(String[] args) throws Exception {
    String name = args[0];
    String experiment = anExperimentIsMadeFoundAndTagged(name);
    String run = aRunLogsAndIsReadBack(experiment);
    aBatchIsLoggedAtOnce(run);
    historiesComeWhole(run);
    runsAreSearchedPageByPage(experiment);
    runsAreDeletedAndRestored(experiment, run);
    aContextStartsAndEndsARun(name);
    mistakesAreToldAsMlflowTellsThem(run);
    modelsAreRegisteredAndFound(name, run);
    if (args.length > 1) {
      artifactsGoUpAndDown(run, Path.of(args[1]));
    }
    client.renameExperiment(experiment, name + "-renamed");
    equal(client.getExperiment(experiment).getName(), name + "-renamed", "a renamed experiment");
    client.deleteExperiment(experiment);
    equal(client.getExperiment(experiment).getLifecycleStage(), "deleted", "a deleted experiment");
    client.restoreExperiment(experiment);
    equal(client.getExperiment(experiment).getLifecycleStage(), "active", "a restored experiment");
    client.close();
    System.out.println("all well");
  }

  static String anExperimentIsMadeFoundAndTagged(String name) {
    String id = client.createExperiment(name);
    client.setExperimentTag(id, "team", "eyes");
    equal(client.getExperimentByName(name).get().getExperimentId(), id, "the experiment of that name");
    equal(client.getExperiment(id).getTags(0).getValue(), "eyes", "the experiment's tag");
    equal(client.getExperimentByName(name + "-no").isPresent(), false, "an experiment that is not there");
    equal(client.searchExperiments("name = '" + name + "'").getItems().size(), 1, "experiments found by name");
    return id;
  }

  static String aRunLogsAndIsReadBack(String experiment) {
    RunInfo info = client.createRun(CreateRun.newBuilder().setExperimentId(experiment).setUserId("java").setStartTime(1700000000000L)
        .addTags(RunTag.newBuilder().setKey("mlflow.runName").setValue("from Java")).build());
    String run = info.getRunId();
    client.logParam(run, "lr", "0.1");
    client.logMetric(run, "loss", 0.5);
    client.logMetric(run, "odd", Double.NaN, 1700000000000L, 3);
    client.setTag(run, "mood", "ü good");
    client.setTag(run, "draft", "yes");
    client.deleteTag(run, "draft");
    client.setTerminated(run, RunStatus.FINISHED, 1700000001000L);
    Run found = client.getRun(run);
    equal(found.getInfo().getRunName(), "from Java", "the run's name");
    equal(found.getInfo().getStatus(), RunStatus.FINISHED, "the run's status");
    equal(found.getInfo().getEndTime(), 1700000001000L, "the run's end");
    equal(found.getInfo().getUserId(), "java", "the run's user");
    equal(found.getData().getParams(0).getValue(), "0.1", "the param");
    equal(found.getData().getMetricsCount(), 2, "metrics");
    equal(found.getData().getTagsList().stream().filter(t -> t.getKey().equals("mood")).findFirst().get().getValue(), "ü good", "the tag");
    equal(found.getData().getTagsList().stream().anyMatch(t -> t.getKey().equals("draft")), false, "the tag that was deleted");
    return run;
  }

  static void aBatchIsLoggedAtOnce(String run) {
    List<Metric> metrics = new ArrayList<>();
    for (int i = 0; i < 900; i++) {
      metrics.add(Metric.newBuilder().setKey("course").setValue(1.0 / (i + 1)).setTimestamp(1700000000000L + i).setStep(i).build());
    }
    client.logBatch(run, metrics, List.of(Param.newBuilder().setKey("depth").setValue("3").build()),
        List.of(RunTag.newBuilder().setKey("batch").setValue("yes").build()));
    equal(client.getRun(run).getData().getParamsCount(), 2, "params after the batch");
  }

  static void historiesComeWhole(String run) {
    List<Metric> history = client.getMetricHistory(run, "course");
    equal(history.size(), 900, "points");
    equal(history.get(899).getStep(), 899L, "the last step");
    equal(history.get(1).getValue(), 0.5, "the second value");
    equal(Double.isNaN(client.getMetricHistory(run, "odd").get(0).getValue()), true, "what is no number");
    equal(client.getMetricHistory(run, "none").size(), 0, "points of a metric that is not there");
  }

  static void runsAreSearchedPageByPage(String experiment) {
    for (int i = 0; i < 4; i++) {
      String run = client.createRun(experiment).getRunId();
      client.logMetric(run, "order", i);
    }
    List<String> all = List.of(experiment);
    equal(client.searchRuns(all, "metrics.order >= 2").size(), 2, "runs by a metric");
    equal(client.searchRuns(all, "params.lr = '0.1' and tags.mood = 'ü good'").size(), 1, "runs by a param and a tag");
    RunsPage page = client.searchRuns(all, "metrics.order >= 0", ViewType.ACTIVE_ONLY, 3, List.of("metrics.order DESC"));
    equal(page.getItems().size(), 3, "runs on the first page");
    equal(page.hasNextPage(), true, "whether there is a second page");
    equal(((RunsPage) page.getNextPage()).getItems().size(), 1, "runs on the second page");
  }

  static void runsAreDeletedAndRestored(String experiment, String run) {
    client.deleteRun(run);
    equal(client.getRun(run).getInfo().getLifecycleStage(), "deleted", "a deleted run");
    equal(client.searchRuns(List.of(experiment), "", ViewType.DELETED_ONLY).size(), 1, "deleted runs");
    client.restoreRun(run);
    equal(client.getRun(run).getInfo().getLifecycleStage(), "active", "a restored run");
  }

  static void aContextStartsAndEndsARun(String name) {
    MlflowContext context = new MlflowContext(client);
    context.setExperimentName(name);
    ActiveRun parent = context.startRun("parent");
    parent.logParams(Map.of("a", "1", "b", "2"));
    parent.logMetrics(Map.of("x", 1.0, "y", 2.0), 5);
    ActiveRun child = context.startRun("child", parent.getId());
    child.endRun(RunStatus.FAILED);
    parent.endRun();
    equal(client.getRun(parent.getId()).getInfo().getStatus(), RunStatus.FINISHED, "the parent's status");
    equal(client.getRun(child.getId()).getInfo().getStatus(), RunStatus.FAILED, "the child's status");
    equal(client.searchRuns(List.of(context.getExperimentId()), "tags.mlflow.parentRunId = '" + parent.getId() + "'").size(), 1, "children");
  }

  static void mistakesAreToldAsMlflowTellsThem(String run) {
    refused(() -> client.logParam(run, "lr", "0.2"), 400, "INVALID_PARAMETER_VALUE");
    refused(() -> client.getRun("00000000000000000000000000000000"), 404, "RESOURCE_DOES_NOT_EXIST");
    refused(() -> client.searchRuns(List.of("0"), "metrics.x !! 3"), 400, "INVALID_PARAMETER_VALUE");
  }

  static void modelsAreRegisteredAndFound(String name, String run) {
    client.sendPost("registered-models/create", "{\"name\": \"" + name + "\"}");
    client.sendPost("model-versions/create", "{\"name\": \"" + name + "\", \"source\": \"" + client.getRun(run).getInfo().getArtifactUri()
        + "/model\", \"run_id\": \"" + run + "\"}");
    equal(client.getRegisteredModel(name).getName(), name, "the registered model");
    ModelVersion version = client.getModelVersion(name, "1");
    equal(version.getRunId(), run, "the version's run");
    equal(client.getLatestVersions(name).size(), 1, "latest versions");
    equal(client.searchModelVersions("name = '" + name + "'").getItems().size(), 1, "versions found by name");
    equal(client.getModelVersionDownloadUri(name, "1").endsWith("/" + run + "/artifacts/model"), true, "where the version lies");
  }

  /** The client has MLflow's command line move files. */
  static void artifactsGoUpAndDown(String run, Path folder) throws Exception {
    Path file = Files.writeString(folder.resolve("hello.txt"), "hello");
    client.logArtifact(run, file.toFile(), "a/b");
    List<FileInfo> top = client.listArtifacts(run);
    equal(top.size(), 1, "artefacts");
    equal(top.get(0).getIsDir(), true, "whether it is a folder");
    FileInfo below = client.listArtifacts(run, "a/b").get(0);
    equal(below.getPath(), "a/b/hello.txt", "the file's path");
    equal(below.getFileSize(), 5L, "the file's size");
    File back = client.downloadArtifacts(run, "a/b/hello.txt");
    equal(Files.readString(back.toPath()), "hello", "the file that came back");
  }

  static void equal(Object got, Object want, String what) {
    if (!got.equals(want)) {
      throw new AssertionError(what + ": got " + got + ", want " + want);
    }
  }

  static void refused(Runnable call, int status, String code) {
    try {
      call.run();
    } catch (MlflowHttpException e) {
      equal(e.getStatusCode(), status, "the status of a mistake");
      equal(e.getBodyMessage().contains(code), true, "whether " + e.getBodyMessage() + " names " + code);
      return;
    }
    throw new AssertionError("nothing was refused where " + code + " is due");
  }
}
