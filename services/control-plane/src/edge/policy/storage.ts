import { allow, inProject, type PolicyRule } from './rules.js';

const GRANTS_COUNT = 'or a grant on the bucket; the audience of the bucket narrows';
const readsPosture = allow(inProject('viewer', ['storage.read']));
const readsObjects = allow(inProject('viewer', ['storage.read']), `reads the bucket by role ${GRANTS_COUNT}`);
const writesObjects = allow(inProject('member', ['storage.write']), `writes the bucket by role ${GRANTS_COUNT}`);
const manages = allow(inProject('member'), 'owner of the bucket, or admin of the project');

export const storagePolicy = {
  listStorage: readsObjects,
  downloadStorageObject: readsObjects,
  uploadStorageObject: writesObjects,
  createStorageDirectory: writesObjects,
  renameStorageObject: writesObjects,
  deleteStorageObject: writesObjects,

  listV3StorageBuckets: readsPosture,
  getV3StorageBucketDetail: readsObjects,
  createV3StorageBucket: allow(inProject('member', ['storage.write'])),
  updateV3StorageBucket: manages,
  archiveV3StorageBucket: manages,
  deleteV3StorageBucket: manages,

  downloadV3StorageObject: readsObjects,
  uploadV3StorageObject: writesObjects,
  createV3StorageDirectory: writesObjects,
  deleteV3StorageObject: writesObjects,

  listV3StorageAttachments: readsPosture,
  getV3StorageAttachment: readsPosture,
  createV3StorageAttachment: allow(
    inProject('member', ['storage.write']),
    'owner of the target, or manager of the bucket; another project needs a mount grant',
  ),
  detachV3StorageAttachment: allow(
    inProject('member', ['storage.write']),
    'owner of the target, or manager of the bucket',
  ),

  listV3StorageGrants: allow(inProject('viewer', ['storage.read']), 'project of the bucket alone'),
  createV3StorageGrant: manages,
  revokeV3StorageGrant: manages,
  issueV3StorageCredential: allow(
    inProject('member', ['storage.read', 'storage.write']),
    'for oneself, or for others as manager of the bucket; never more than the effective permission',
  ),
} satisfies Record<string, PolicyRule>;
