import {
  allOf,
  allow,
  anyOf,
  anyUser,
  capability,
  inProject,
  open,
  type PolicyRule,
  superadmin,
  tenantAdmin,
  tenantUser,
  userOnTheirOwn,
} from './rules.js';

const projectViewer = allow(inProject('viewer'));
const projectAdmin = allow(inProject('admin'));
const signedIn = allow(anyUser);
const operatorReads = allow(capability('platform.ops.read'));
const platformAdmin = allow(capability('platform.admin'));
const auditReader = allow(capability('platform.audit.read'));

/** Robots are the business of those who administer the project, and of operators who look into an incident. */
const readsServiceAccounts = allow(anyOf(inProject('admin'), capability('platform.ops.read')));
const createsServiceAccount = allow(inProject('admin'), 'purpose controller: platform.admin');
const deliversCredential = allow(inProject('admin', 'any'), 'service account: bound to the credential');
/** Without a project the caller's own keys, with one the project's. */
const readsSshKeys = allow(anyOf(userOnTheirOwn, inProject('member', ['compute.read', 'compute.write'])));
const changesSshKeys = allow(anyOf(userOnTheirOwn, inProject('member', ['compute.write'])));
const bindsMembership = allow(
  tenantUser,
  'tenant admin, or admin of the project in the body for project roles alone; none above their own; owners by owners',
);
const tenantAudit = allow(anyOf(tenantAdmin, capability('platform.audit.read')));
const projectAudit = allow(inProject('admin', ['audit.read']));

export const identityPolicy = {
  getOidcAuthorizeUrl: open('none: starts a sign-in at an allow-listed address'),
  exchangeOidcCode: open('single-use state, nonce and PKCE verifier', { bearer: 'used' }),
  getSamlAuthorizeUrl: open('none: starts a sign-in at an allow-listed address'),
  exchangeSamlAssertion: open('signed assertion and single-use state', { bearer: 'used' }),
  loginPersonal: open('password'),
  signupPersonal: open('none: creates an account where the site permits it'),
  refreshToken: open('refresh token'),
  createServiceAccountToken: open('service account key'),
  createSharedRuntimeOperatorToken: open('key of the operator service account'),
  logout: signedIn,
  getMe: signedIn,
  listMyIdentityLinks: signedIn,
  createMyIdentityLink: allow(anyUser, 'proof: a fresh verified callback of this session'),

  listProjects: signedIn,
  createProject: allow(tenantAdmin),
  updateProject: projectAdmin,
  deleteProject: allow(inProject('owner', 'never', 'ownership_required')),
  setDefaultProject: projectViewer,

  listSshKeys: readsSshKeys,
  createSshKey: changesSshKeys,
  deleteSshKey: changesSshKeys,
  setDefaultSshKey: signedIn,
  listV3AccountSshKeys: signedIn,
  createV3AccountSshKeyCompat: changesSshKeys,
  deleteV3AccountSshKeyCompat: changesSshKeys,
  setDefaultV3AccountSshKeyCompat: signedIn,

  tenantListUsers: allow(tenantUser, 'tenant admin, or admin of the project in the query'),
  tenantCreateUser: allow(tenantAdmin, 'the project in the body is one of the tenant; none above their own role'),
  tenantBindUserMembership: bindsMembership,
  bindV3AccessUserMembershipCompat: bindsMembership,
  removeV3AccessUserMembershipCompat: allow(
    allOf(tenantAdmin, inProject('viewer')),
    'the project in the body is the one in the header; owners by owners',
  ),

  listServiceAccounts: readsServiceAccounts,
  getServiceAccount: readsServiceAccounts,
  createServiceAccount: createsServiceAccount,
  disableServiceAccount: projectAdmin,
  rotateServiceAccountCredential: projectAdmin,
  deleteServiceAccount: projectAdmin,
  listV3AccessServiceAccounts: readsServiceAccounts,
  getV3AccessServiceAccountCompat: readsServiceAccounts,
  createV3AccessServiceAccountCompat: createsServiceAccount,
  disableV3AccessServiceAccountCompat: projectAdmin,
  rotateV3AccessServiceAccountKeyCompat: projectAdmin,
  deleteV3AccessServiceAccountCompat: projectAdmin,

  listProjectAccessCredentials: projectAdmin,
  getProjectAccessCredential: projectAdmin,
  createProjectAccessCredential: projectAdmin,
  updateProjectAccessCredential: projectAdmin,
  rotateProjectAccessCredential: projectAdmin,
  deleteProjectAccessCredential: projectAdmin,
  deliverProjectAccessCredential: deliversCredential,
  getV3AccessCredentialCompat: projectAdmin,
  createV3AccessCredentialCompat: projectAdmin,
  updateV3AccessCredentialCompat: projectAdmin,
  rotateV3AccessCredentialCompat: projectAdmin,
  deleteV3AccessCredentialCompat: projectAdmin,
  deliverV3AccessCredentialCompat: deliversCredential,

  upsertV3AccessAppEntitlementCompat: allow(
    anyOf(inProject('admin'), capability('platform.ops.write')),
    'a project admin only tightens',
  ),

  getV3AccessOverview: projectViewer,
  listV3AccessMemberships: projectAdmin,
  listV3AccessCredentials: projectViewer,
  listV3AccessEntitlements: projectViewer,
  getV3AccessQuotaPosture: projectViewer,
  listV3AccessAuditEvents: projectAudit,
  exportV3AccessAuditEvents: projectAudit,

  listMyAuditLogs: signedIn,
  listV3AccountEvidenceAuditLogs: signedIn,
  listProjectAuditLogs: projectAudit,
  listV3ProjectEvidenceAuditLogs: projectAudit,
  listOrgAuditLogs: tenantAudit,
  listV3TenantEvidenceAuditLogs: tenantAudit,

  getV3AccountOverview: signedIn,
  getV3AccountProfile: signedIn,
  updateV3AccountProfile: signedIn,
  getV3AccountSecurity: signedIn,
  createV3AccountMFARecoveryRequest: signedIn,
  listV3AccountSessions: signedIn,
  revokeV3AccountSession: allow(anyUser, 'own sessions'),
  revokeOtherV3AccountSessions: signedIn,

  adminGetOverview: operatorReads,
  adminListUsers: operatorReads,
  adminGetUser: operatorReads,
  adminCreateUser: platformAdmin,
  adminListUserPlatformRoles: allow(superadmin),
  adminBindUserPlatformRole: platformAdmin,
  adminRevokeUserPlatformRole: platformAdmin,
  adminListTenants: operatorReads,
  adminListTenantProjects: operatorReads,
  adminBindUserMembership: platformAdmin,
  adminListAccessCredentials: operatorReads,
  adminGetAccessCredential: operatorReads,
  adminCreateAccessCredential: platformAdmin,
  adminUpdateAccessCredential: platformAdmin,
  adminRotateAccessCredential: platformAdmin,
  adminDeleteAccessCredential: platformAdmin,
  adminListAuditLogs: auditReader,
  adminExportAuditLogsCsv: auditReader,

  getV3PlatformIAM: operatorReads,
  getV3PlatformIAMMFAReadiness: operatorReads,
  createV3PlatformIAMMFAFactorResetRequest: allow(
    capability('platform.ops.write'),
    'a superadmin as target: platform.admin; never oneself',
  ),
} satisfies Record<string, PolicyRule>;
