PRAGMA foreign_keys=OFF;
BEGIN TRANSACTION;
CREATE TABLE experiments (
	experiment_id INTEGER NOT NULL, 
	name VARCHAR(256) NOT NULL, 
	artifact_location VARCHAR(256), 
	lifecycle_stage VARCHAR(32), creation_time BIGINT, last_update_time BIGINT, 
	CONSTRAINT experiment_pk PRIMARY KEY (experiment_id), 
	CONSTRAINT experiments_lifecycle_stage CHECK (lifecycle_stage IN ('active', 'deleted')), 
	UNIQUE (name)
);
INSERT INTO experiments VALUES(0,'Default','/home/ann/mlruns/0','active',1795277577403,1795277577403);
INSERT INTO experiments VALUES(1,'older','/home/ann/mlruns/1','active',1795277577487,1795277577487);
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO alembic_version VALUES('5b0e9adcef9c');
CREATE TABLE experiment_tags (
	"key" VARCHAR(250) NOT NULL, 
	value VARCHAR(5000), 
	experiment_id INTEGER NOT NULL, 
	CONSTRAINT experiment_tag_pk PRIMARY KEY ("key", experiment_id), 
	FOREIGN KEY(experiment_id) REFERENCES experiments (experiment_id)
);
CREATE TABLE IF NOT EXISTS "tags" (
	"key" VARCHAR(250) NOT NULL, 
	value VARCHAR(5000), 
	run_uuid VARCHAR(32) NOT NULL, 
	CONSTRAINT tag_pk PRIMARY KEY ("key", run_uuid), 
	FOREIGN KEY(run_uuid) REFERENCES runs (run_uuid)
);
INSERT INTO tags VALUES('mlflow.user','ann','2dfe1c1a77014984a1559bef29db0e0b');
INSERT INTO tags VALUES('mlflow.source.name','../fill2.py','2dfe1c1a77014984a1559bef29db0e0b');
INSERT INTO tags VALUES('mlflow.source.type','LOCAL','2dfe1c1a77014984a1559bef29db0e0b');
INSERT INTO tags VALUES('a','b','2dfe1c1a77014984a1559bef29db0e0b');
INSERT INTO tags VALUES('mlflow.runName','r2','2dfe1c1a77014984a1559bef29db0e0b');
CREATE TABLE registered_models (
	name VARCHAR(256) NOT NULL, 
	creation_time BIGINT, 
	last_updated_time BIGINT, 
	description VARCHAR(5000), 
	CONSTRAINT registered_model_pk PRIMARY KEY (name), 
	UNIQUE (name)
);
INSERT INTO registered_models VALUES('m2',1795277579051,1795277579074,'d');
CREATE TABLE IF NOT EXISTS "runs" (
	run_uuid VARCHAR(32) NOT NULL, 
	name VARCHAR(250), 
	source_type VARCHAR(20), 
	source_name VARCHAR(500), 
	entry_point_name VARCHAR(50), 
	user_id VARCHAR(256), 
	status VARCHAR(9), 
	start_time BIGINT, 
	end_time BIGINT, 
	source_version VARCHAR(50), 
	lifecycle_stage VARCHAR(20), 
	artifact_uri VARCHAR(200), 
	experiment_id INTEGER, deleted_time BIGINT, 
	CONSTRAINT run_pk PRIMARY KEY (run_uuid), 
	CONSTRAINT runs_lifecycle_stage CHECK (lifecycle_stage IN ('active', 'deleted')), 
	CONSTRAINT source_type CHECK (source_type IN ('NOTEBOOK', 'JOB', 'LOCAL', 'UNKNOWN', 'PROJECT')), 
	FOREIGN KEY(experiment_id) REFERENCES experiments (experiment_id), 
	CHECK (status IN ('SCHEDULED', 'FAILED', 'FINISHED', 'RUNNING', 'KILLED'))
);
INSERT INTO runs VALUES('2dfe1c1a77014984a1559bef29db0e0b','r2','UNKNOWN','','','ann','FINISHED',1795277578458,1795277578913,'','active','/home/ann/mlruns/1/2dfe1c1a77014984a1559bef29db0e0b/artifacts',1,NULL);
CREATE TABLE registered_model_tags (
	"key" VARCHAR(250) NOT NULL, 
	value VARCHAR(5000), 
	name VARCHAR(256) NOT NULL, 
	CONSTRAINT registered_model_tag_pk PRIMARY KEY ("key", name), 
	FOREIGN KEY(name) REFERENCES registered_models (name) ON UPDATE cascade
);
INSERT INTO registered_model_tags VALUES('k','v','m2');
CREATE TABLE model_version_tags (
	"key" VARCHAR(250) NOT NULL, 
	value VARCHAR(5000), 
	name VARCHAR(256) NOT NULL, 
	version INTEGER NOT NULL, 
	CONSTRAINT model_version_tag_pk PRIMARY KEY ("key", name, version), 
	FOREIGN KEY(name, version) REFERENCES model_versions (name, version) ON UPDATE cascade
);
INSERT INTO model_version_tags VALUES('t','u','m2',1);
CREATE TABLE IF NOT EXISTS "model_versions" (
	name VARCHAR(256) NOT NULL, 
	version INTEGER NOT NULL, 
	creation_time BIGINT, 
	last_updated_time BIGINT, 
	description VARCHAR(5000), 
	user_id VARCHAR(256), 
	current_stage VARCHAR(20), 
	source VARCHAR(500), 
	run_id VARCHAR(32), 
	status VARCHAR(20), 
	status_message VARCHAR(500), 
	run_link VARCHAR(500), storage_location VARCHAR(500), 
	CONSTRAINT model_version_pk PRIMARY KEY (name, version), 
	FOREIGN KEY(name) REFERENCES registered_models (name) ON UPDATE CASCADE
);
INSERT INTO model_versions VALUES('m2',1,1795277579074,1795277579074,NULL,NULL,'None','/home/ann/mlruns/1/2dfe1c1a77014984a1559bef29db0e0b/artifacts/d','2dfe1c1a77014984a1559bef29db0e0b','READY',NULL,NULL,'/home/ann/mlruns/1/2dfe1c1a77014984a1559bef29db0e0b/artifacts/d');
CREATE TABLE IF NOT EXISTS "latest_metrics" (
	"key" VARCHAR(250) NOT NULL, 
	value FLOAT NOT NULL, 
	timestamp BIGINT, 
	step BIGINT NOT NULL, 
	is_nan BOOLEAN NOT NULL, 
	run_uuid VARCHAR(32) NOT NULL, 
	CONSTRAINT latest_metric_pk PRIMARY KEY ("key", run_uuid), 
	FOREIGN KEY(run_uuid) REFERENCES runs (run_uuid), 
	CHECK (is_nan IN (0, 1))
);
INSERT INTO latest_metrics VALUES('loss',0.020000000000000000416,1700000000049,49,0,'2dfe1c1a77014984a1559bef29db0e0b');
INSERT INTO latest_metrics VALUES('odd',0.0,1795277578734,0,1,'2dfe1c1a77014984a1559bef29db0e0b');
CREATE TABLE IF NOT EXISTS "metrics" (
	"key" VARCHAR(250) NOT NULL, 
	value FLOAT NOT NULL, 
	timestamp BIGINT NOT NULL, 
	run_uuid VARCHAR(32) NOT NULL, 
	step BIGINT DEFAULT '0' NOT NULL, 
	is_nan BOOLEAN DEFAULT '0' NOT NULL, 
	CONSTRAINT metric_pk PRIMARY KEY ("key", timestamp, step, run_uuid, value, is_nan), 
	FOREIGN KEY(run_uuid) REFERENCES runs (run_uuid), 
	CHECK (is_nan IN (0, 1))
);
INSERT INTO metrics VALUES('loss',1.0,1700000000000,'2dfe1c1a77014984a1559bef29db0e0b',0,0);
INSERT INTO metrics VALUES('loss',0.5,1700000000001,'2dfe1c1a77014984a1559bef29db0e0b',1,0);
INSERT INTO metrics VALUES('loss',0.33333333333333331482,1700000000002,'2dfe1c1a77014984a1559bef29db0e0b',2,0);
INSERT INTO metrics VALUES('loss',0.25,1700000000003,'2dfe1c1a77014984a1559bef29db0e0b',3,0);
INSERT INTO metrics VALUES('loss',0.2000000000000000111,1700000000004,'2dfe1c1a77014984a1559bef29db0e0b',4,0);
INSERT INTO metrics VALUES('loss',0.16666666666666665741,1700000000005,'2dfe1c1a77014984a1559bef29db0e0b',5,0);
INSERT INTO metrics VALUES('loss',0.14285714285714284921,1700000000006,'2dfe1c1a77014984a1559bef29db0e0b',6,0);
INSERT INTO metrics VALUES('loss',0.125,1700000000007,'2dfe1c1a77014984a1559bef29db0e0b',7,0);
INSERT INTO metrics VALUES('loss',0.11111111111111110494,1700000000008,'2dfe1c1a77014984a1559bef29db0e0b',8,0);
INSERT INTO metrics VALUES('loss',0.10000000000000000555,1700000000009,'2dfe1c1a77014984a1559bef29db0e0b',9,0);
INSERT INTO metrics VALUES('loss',0.090909090909090911614,1700000000010,'2dfe1c1a77014984a1559bef29db0e0b',10,0);
INSERT INTO metrics VALUES('loss',0.083333333333333328707,1700000000011,'2dfe1c1a77014984a1559bef29db0e0b',11,0);
INSERT INTO metrics VALUES('loss',0.076923076923076927347,1700000000012,'2dfe1c1a77014984a1559bef29db0e0b',12,0);
INSERT INTO metrics VALUES('loss',0.071428571428571424606,1700000000013,'2dfe1c1a77014984a1559bef29db0e0b',13,0);
INSERT INTO metrics VALUES('loss',0.066666666666666665741,1700000000014,'2dfe1c1a77014984a1559bef29db0e0b',14,0);
INSERT INTO metrics VALUES('loss',0.0625,1700000000015,'2dfe1c1a77014984a1559bef29db0e0b',15,0);
INSERT INTO metrics VALUES('loss',0.058823529411764705066,1700000000016,'2dfe1c1a77014984a1559bef29db0e0b',16,0);
INSERT INTO metrics VALUES('loss',0.055555555555555552471,1700000000017,'2dfe1c1a77014984a1559bef29db0e0b',17,0);
INSERT INTO metrics VALUES('loss',0.05263157894736841813,1700000000018,'2dfe1c1a77014984a1559bef29db0e0b',18,0);
INSERT INTO metrics VALUES('loss',0.050000000000000002775,1700000000019,'2dfe1c1a77014984a1559bef29db0e0b',19,0);
INSERT INTO metrics VALUES('loss',0.047619047619047616404,1700000000020,'2dfe1c1a77014984a1559bef29db0e0b',20,0);
INSERT INTO metrics VALUES('loss',0.045454545454545455807,1700000000021,'2dfe1c1a77014984a1559bef29db0e0b',21,0);
INSERT INTO metrics VALUES('loss',0.043478260869565216184,1700000000022,'2dfe1c1a77014984a1559bef29db0e0b',22,0);
INSERT INTO metrics VALUES('loss',0.041666666666666664353,1700000000023,'2dfe1c1a77014984a1559bef29db0e0b',23,0);
INSERT INTO metrics VALUES('loss',0.040000000000000000832,1700000000024,'2dfe1c1a77014984a1559bef29db0e0b',24,0);
INSERT INTO metrics VALUES('loss',0.038461538461538463673,1700000000025,'2dfe1c1a77014984a1559bef29db0e0b',25,0);
INSERT INTO metrics VALUES('loss',0.037037037037037034981,1700000000026,'2dfe1c1a77014984a1559bef29db0e0b',26,0);
INSERT INTO metrics VALUES('loss',0.035714285714285712303,1700000000027,'2dfe1c1a77014984a1559bef29db0e0b',27,0);
INSERT INTO metrics VALUES('loss',0.034482758620689654693,1700000000028,'2dfe1c1a77014984a1559bef29db0e0b',28,0);
INSERT INTO metrics VALUES('loss',0.03333333333333333287,1700000000029,'2dfe1c1a77014984a1559bef29db0e0b',29,0);
INSERT INTO metrics VALUES('loss',0.032258064516129031362,1700000000030,'2dfe1c1a77014984a1559bef29db0e0b',30,0);
INSERT INTO metrics VALUES('loss',0.03125,1700000000031,'2dfe1c1a77014984a1559bef29db0e0b',31,0);
INSERT INTO metrics VALUES('loss',0.030303030303030303871,1700000000032,'2dfe1c1a77014984a1559bef29db0e0b',32,0);
INSERT INTO metrics VALUES('loss',0.029411764705882352533,1700000000033,'2dfe1c1a77014984a1559bef29db0e0b',33,0);
INSERT INTO metrics VALUES('loss',0.028571428571428570536,1700000000034,'2dfe1c1a77014984a1559bef29db0e0b',34,0);
INSERT INTO metrics VALUES('loss',0.027777777777777776235,1700000000035,'2dfe1c1a77014984a1559bef29db0e0b',35,0);
INSERT INTO metrics VALUES('loss',0.027027027027027028527,1700000000036,'2dfe1c1a77014984a1559bef29db0e0b',36,0);
INSERT INTO metrics VALUES('loss',0.026315789473684209065,1700000000037,'2dfe1c1a77014984a1559bef29db0e0b',37,0);
INSERT INTO metrics VALUES('loss',0.025641025641025640136,1700000000038,'2dfe1c1a77014984a1559bef29db0e0b',38,0);
INSERT INTO metrics VALUES('loss',0.025000000000000001387,1700000000039,'2dfe1c1a77014984a1559bef29db0e0b',39,0);
INSERT INTO metrics VALUES('loss',0.024390243902439025236,1700000000040,'2dfe1c1a77014984a1559bef29db0e0b',40,0);
INSERT INTO metrics VALUES('loss',0.023809523809523808202,1700000000041,'2dfe1c1a77014984a1559bef29db0e0b',41,0);
INSERT INTO metrics VALUES('loss',0.02325581395348837177,1700000000042,'2dfe1c1a77014984a1559bef29db0e0b',42,0);
INSERT INTO metrics VALUES('loss',0.022727272727272727903,1700000000043,'2dfe1c1a77014984a1559bef29db0e0b',43,0);
INSERT INTO metrics VALUES('loss',0.02222222222222222307,1700000000044,'2dfe1c1a77014984a1559bef29db0e0b',44,0);
INSERT INTO metrics VALUES('loss',0.021739130434782608092,1700000000045,'2dfe1c1a77014984a1559bef29db0e0b',45,0);
INSERT INTO metrics VALUES('loss',0.021276595744680850547,1700000000046,'2dfe1c1a77014984a1559bef29db0e0b',46,0);
INSERT INTO metrics VALUES('loss',0.020833333333333332176,1700000000047,'2dfe1c1a77014984a1559bef29db0e0b',47,0);
INSERT INTO metrics VALUES('loss',0.02040816326530612082,1700000000048,'2dfe1c1a77014984a1559bef29db0e0b',48,0);
INSERT INTO metrics VALUES('loss',0.020000000000000000416,1700000000049,'2dfe1c1a77014984a1559bef29db0e0b',49,0);
INSERT INTO metrics VALUES('odd',0.0,1795277578734,'2dfe1c1a77014984a1559bef29db0e0b',0,1);
CREATE TABLE registered_model_aliases (
	alias VARCHAR(256) NOT NULL, 
	version INTEGER NOT NULL, 
	name VARCHAR(256) NOT NULL, 
	CONSTRAINT registered_model_alias_pk PRIMARY KEY (name, alias), 
	CONSTRAINT registered_model_alias_name_fkey FOREIGN KEY(name) REFERENCES registered_models (name) ON DELETE cascade ON UPDATE cascade
);
INSERT INTO registered_model_aliases VALUES('best',1,'m2');
CREATE TABLE datasets (
	dataset_uuid VARCHAR(36) NOT NULL, 
	experiment_id INTEGER NOT NULL, 
	name VARCHAR(500) NOT NULL, 
	digest VARCHAR(36) NOT NULL, 
	dataset_source_type VARCHAR(36) NOT NULL, 
	dataset_source TEXT NOT NULL, 
	dataset_schema TEXT, 
	dataset_profile TEXT, 
	CONSTRAINT dataset_pk PRIMARY KEY (experiment_id, name, digest), 
	FOREIGN KEY(experiment_id) REFERENCES experiments (experiment_id)
);
INSERT INTO datasets VALUES('d7bb99c161334abb9cfc3fe80508e4cd',1,'d','987cd74d','local','{"uri": "s.csv"}',NULL,'{"num_rows": 1, "num_elements": 1}');
CREATE TABLE inputs (
	input_uuid VARCHAR(36) NOT NULL, 
	source_type VARCHAR(36) NOT NULL, 
	source_id VARCHAR(36) NOT NULL, 
	destination_type VARCHAR(36) NOT NULL, 
	destination_id VARCHAR(36) NOT NULL, 
	CONSTRAINT inputs_pk PRIMARY KEY (source_type, source_id, destination_type, destination_id)
);
INSERT INTO inputs VALUES('e9d45712937c4754963d582c64af8e1b','DATASET','d7bb99c161334abb9cfc3fe80508e4cd','RUN','2dfe1c1a77014984a1559bef29db0e0b');
CREATE TABLE input_tags (
	input_uuid VARCHAR(36) NOT NULL, 
	name VARCHAR(255) NOT NULL, 
	value VARCHAR(500) NOT NULL, 
	CONSTRAINT input_tags_pk PRIMARY KEY (input_uuid, name)
);
CREATE TABLE IF NOT EXISTS "params" (
	"key" VARCHAR(250) NOT NULL, 
	value VARCHAR(8000) NOT NULL, 
	run_uuid VARCHAR(32) NOT NULL, 
	CONSTRAINT param_pk PRIMARY KEY ("key", run_uuid), 
	FOREIGN KEY(run_uuid) REFERENCES runs (run_uuid)
);
INSERT INTO params VALUES('p','1','2dfe1c1a77014984a1559bef29db0e0b');
CREATE TABLE trace_info (
	request_id VARCHAR(50) NOT NULL, 
	experiment_id INTEGER NOT NULL, 
	timestamp_ms BIGINT NOT NULL, 
	execution_time_ms BIGINT, 
	status VARCHAR(50) NOT NULL, 
	CONSTRAINT trace_info_pk PRIMARY KEY (request_id), 
	CONSTRAINT fk_trace_info_experiment_id FOREIGN KEY(experiment_id) REFERENCES experiments (experiment_id)
);
INSERT INTO trace_info VALUES('fe0047dc0dd94b46b6af87b4a26cfe2e',1,1795277579303,NULL,'IN_PROGRESS');
CREATE TABLE IF NOT EXISTS "trace_tags" (
	"key" VARCHAR(250) NOT NULL, 
	value VARCHAR(8000), 
	request_id VARCHAR(50) NOT NULL, 
	CONSTRAINT trace_tag_pk PRIMARY KEY ("key", request_id), 
	CONSTRAINT fk_trace_tags_request_id FOREIGN KEY(request_id) REFERENCES trace_info (request_id) ON DELETE CASCADE
);
INSERT INTO trace_tags VALUES('mlflow.source.name','../fill2.py','fe0047dc0dd94b46b6af87b4a26cfe2e');
INSERT INTO trace_tags VALUES('mlflow.source.type','LOCAL','fe0047dc0dd94b46b6af87b4a26cfe2e');
INSERT INTO trace_tags VALUES('mlflow.traceName','f','fe0047dc0dd94b46b6af87b4a26cfe2e');
INSERT INTO trace_tags VALUES('mlflow.artifactLocation','/home/ann/mlruns/1/traces/fe0047dc0dd94b46b6af87b4a26cfe2e/artifacts','fe0047dc0dd94b46b6af87b4a26cfe2e');
CREATE TABLE IF NOT EXISTS "trace_request_metadata" (
	"key" VARCHAR(250) NOT NULL, 
	value VARCHAR(8000), 
	request_id VARCHAR(50) NOT NULL, 
	CONSTRAINT trace_request_metadata_pk PRIMARY KEY ("key", request_id), 
	CONSTRAINT fk_trace_request_metadata_request_id FOREIGN KEY(request_id) REFERENCES trace_info (request_id) ON DELETE CASCADE
);
INSERT INTO trace_request_metadata VALUES('mlflow.trace_schema.version','2','fe0047dc0dd94b46b6af87b4a26cfe2e');
CREATE INDEX index_metrics_run_uuid ON metrics (run_uuid);
CREATE INDEX index_latest_metrics_run_uuid ON latest_metrics (run_uuid);
CREATE INDEX index_tags_run_uuid ON tags (run_uuid);
CREATE INDEX index_datasets_experiment_id_dataset_source_type ON datasets (experiment_id, dataset_source_type);
CREATE INDEX index_datasets_dataset_uuid ON datasets (dataset_uuid);
CREATE INDEX index_inputs_input_uuid ON inputs (input_uuid);
CREATE INDEX index_inputs_destination_type_destination_id_source_type ON inputs (destination_type, destination_id, source_type);
CREATE INDEX index_params_run_uuid ON params (run_uuid);
CREATE INDEX index_trace_info_experiment_id_timestamp_ms ON trace_info (experiment_id, timestamp_ms);
CREATE INDEX index_trace_tags_request_id ON trace_tags (request_id);
CREATE INDEX index_trace_request_metadata_request_id ON trace_request_metadata (request_id);
COMMIT;
