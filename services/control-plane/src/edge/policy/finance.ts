import {
  allow,
  anyOf,
  anyUser,
  capability,
  inTenant,
  open,
  type PolicyRule,
  serviceAccount,
  tenantAdmin,
  tenantUser,
} from './rules.js';

const BILLING_READER = 'owners, admins and billing viewers see the tenant';
const readsUsage = allow(
  anyOf(anyUser, serviceAccount('billing.read')),
  `${BILLING_READER}; members their own rows; service accounts those of their project`,
);
const platformAdmin = allow(capability('platform.admin'));
const operatorReads = allow(capability('platform.ops.read'));
const operatorWrites = allow(capability('platform.ops.write'));

export const financePolicy = {
  getBillingBalance: allow(anyUser),
  getBillingFinancialPosture: allow(anyUser),
  getBillingCurrencySettings: allow(tenantUser),
  getBillingAccount: allow(inTenant('owner', 'admin', 'billing_viewer')),
  listBillingUsage: readsUsage,
  exportBillingUsageCsv: readsUsage,
  listBillingRatedUsage: readsUsage,
  getBillingRatedUsage: readsUsage,
  listBillingRefunds: readsUsage,
  listBillingInvoices: allow(anyUser, `${BILLING_READER}; others none`),
  getBillingInvoice: allow(anyUser, `${BILLING_READER}; others none`),
  listBillingBudgetPosture: allow(anyUser, `${BILLING_READER}; project admins their projects; others none`),
  evaluateBillingBudgetDecision: allow(tenantUser, 'projects of the tenant that the caller can see'),

  createChargeSession: allow(inTenant('owner', 'admin', 'member'), 'for the tenant: owners and admins'),
  createCustomerPortalSession: allow(tenantAdmin),
  stripeWebhook: open('signature of the payment provider over the raw body'),

  adminAdjustBalance: platformAdmin,
  adminListUserRefunds: platformAdmin,
  adminCreateRefund: platformAdmin,
  adminListPaymentSessions: platformAdmin,
  adminGetPaymentSession: platformAdmin,
  adminReconcilePaymentSession: platformAdmin,
  adminListPaymentDisputes: platformAdmin,
  adminGetPaymentDispute: platformAdmin,
  adminListBillingReconciliation: platformAdmin,
  adminRunBillingReconciliation: platformAdmin,
  adminGetBillingReconciliation: platformAdmin,
  adminGetBillingDiagnostics: platformAdmin,
  adminDryRunShadowRating: platformAdmin,
  adminLinkProviderCustomer: platformAdmin,
  adminSetFinancialRestriction: platformAdmin,

  getV3PlatformFinance: operatorReads,
  getV3PlatformFinanceSessions: operatorReads,
  getV3PlatformFinanceSessionDetail: operatorReads,
  listV3PlatformFinanceReconciliation: operatorReads,
  runV3PlatformFinanceReconciliation: operatorWrites,
  getV3PlatformFinanceReconciliation: operatorReads,
  getV3PlatformFinanceDiagnostics: operatorReads,
  listV3PlatformFinanceUserRefunds: operatorReads,
  createV3PlatformFinanceUserRefund: operatorWrites,
  listV3PlatformFinancePaymentSessionsRaw: operatorReads,
  getV3PlatformFinancePaymentSessionRaw: operatorReads,
  reconcileV3PlatformFinancePaymentSession: operatorWrites,
} satisfies Record<string, PolicyRule>;
